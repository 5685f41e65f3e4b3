#!/bin/sh
# First process of an emulated machine: install what unpack.sh has put into this root, which is in
# memory; make a Pi of it; write it as a tar to the disk; say so.
#
# Wants, from the kernel command line: BOOT and DISK_ID (see setup.sh) and NOW (seconds).
set -eu

export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive
mount -o remount,size=90% /
mount -t devtmpfs devtmpfs /dev
date -s "@$NOW"

/debootstrap/debootstrap --second-stage
rm -f /var/cache/apt/archives/*.deb /var/log/bootstrap.log
mountpoint -q /proc || mount -t proc proc /proc
mountpoint -q /sys || mount -t sysfs sysfs /sys
sed -i s/=no/=yes/ /etc/initramfs-tools/update-initramfs.conf
echo "seconds: $(cut -d ' ' -f 1 /proc/uptime), installed"

export GUEST=/build/guest BUILT=/build/built
MODULES_UML=$(echo /build/modules/*)
export MODULES_UML
sh "$GUEST/setup.sh" /
echo "seconds: $(cut -d ' ' -f 1 /proc/uptime), set up"

modprobe -a virtio_pci virtio_blk
rm -rf /run/* /tmp/*
tar -C / --numeric-owner --xattrs --xattrs-include='*' --one-file-system \
    --exclude=./build --exclude=./init -cf /dev/vda .
sync
echo "The system is complete."
echo o >/proc/sysrq-trigger
sleep 60
