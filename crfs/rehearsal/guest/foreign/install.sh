#!/bin/sh
# First process of an emulated machine: install what unpack.sh has put into this root, which is in
# memory; make a Pi of it; write it as a tar to the disk; say so.
#
# Wants, from the kernel command line: BOOT and DISK_ID (see setup.sh) and NOW (seconds).
set -eu

export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8
export DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true
export INITRD=No  # asks the kernel package not to make an initramfs: setup.sh makes the one to keep
say() { echo "$(cut -d ' ' -f 1 /proc/uptime) s: $*"; }
# The packages' archives, which debootstrap has listed as "PACKAGE PATH".
debs() { for package; do sed -n "s|^$package |/|p" /debootstrap/debpaths; done; }
core() { dpkg --force-depends --install "$(debs "$1")"; }

mount -o remount,size=90% /
mount -t devtmpfs devtmpfs /dev
# In a container debootstrap makes a link of this folder.
[ ! -L /proc ] || rm /proc
mkdir -p /proc /sys
mount -t proc proc /proc
mount -t sysfs sysfs /sys
date -s "@$NOW"
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d

# debootstrap's own second stage spends most of its time on finding an order; dpkg finds one, too.
say "installing what everything else takes for granted"
# What dpkg's own scripts ask of it: to be installed.
printf 'Package: dpkg\nVersion: %s\nMaintainer: unknown\nStatus: install ok installed\n' \
    "$(dpkg-deb -f "$(debs dpkg)" Version)" >/var/lib/dpkg/status
mkdir -p /var/lib/dpkg/info
: >/var/lib/dpkg/info/dpkg.list
ldconfig
ln -sf mawk /usr/bin/awk
[ -e /etc/localtime ] || ln -s /usr/share/zoneinfo/UTC /etc/localtime
for package in base-passwd base-files dpkg libc6 perl-base; do core "$package"; done
rm /usr/bin/awk
core mawk
say "installing what is required"
required=$(cat /debootstrap/required)
# shellcheck disable=SC2046,SC2086  # one word a package
{
    dpkg --force-depends --skip-same-version --unpack $(debs $required)
    dpkg --force-depends --force-configure-any --configure --pending
}
say "unpacking everything else"
dpkg --force-depends --force-overwrite --skip-same-version --unpack /var/cache/apt/archives/*.deb
say "configuring it"
dpkg --configure -a
rm -rf /debootstrap /usr/sbin/policy-rc.d /var/cache/apt/archives/*.deb
sed -i s/=no/=yes/ /etc/initramfs-tools/update-initramfs.conf

say "making it a Pi"
export GUEST=/build/guest BUILT=/build/built
MODULES_UML=$(echo /build/modules/*)
export MODULES_UML
sh "$GUEST/setup.sh" /

say "writing the tar"
modprobe -a virtio_pci virtio_blk
[ -b /dev/vda ]
umount -l /sys  # it changes while tar reads it
rm -rf /run/* /tmp/*
tar -C / --numeric-owner --xattrs --xattrs-include='*' --one-file-system \
    --exclude=./build --exclude=./init -cf /dev/vda .
sync
say "The system is complete."
echo o >/proc/sysrq-trigger
sleep 60
