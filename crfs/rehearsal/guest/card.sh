#!/bin/sh
# Fill the card /dev/ubda with the system of $ROOT_TAR: root in partition 2, FAT in partition 1.
#
# Runs as root in the workbench. Wants BOOT (mount point of the FAT), ROOT_UUID and PYTHON.
set -eu

card=$UML_WORK/card
fat=$UML_WORK/fat
mkdir "$card" "$fat"
mkfs.ext4 -q -F -L rootfs -U "$ROOT_UUID" -E hash_seed="$ROOT_UUID" /dev/ubda2
mount -o noatime /dev/ubda2 "$card"
tar -C "$card" --numeric-owner --xattrs --xattrs-include='*' -xf "$ROOT_TAR"

# Without it the next boot would be a first boot, which enables and disables services by itself.
echo 0123456789abcdef0123456789abcdef >"$card/etc/machine-id"

mount -o iocharset=ascii,shortname=mixed /dev/ubda1 "$fat"
cp -r "$card$BOOT/." "$fat/"
find "$card$BOOT" -mindepth 1 -delete
df -k "$card" "$fat"
umount "$fat"
fstrim "$card" 2>/dev/null || true

"$PYTHON" -m crfs.rehearsal.life "$card"
umount "$card"
