#!/bin/sh
# Fill the card /dev/ubda with the system of $ROOT_TAR: root in partition 2, FAT in partition 1.
#
# Runs as root in the workbench. Wants what setup.sh wants, and ROOT_UUID, FOREIGN (the emulator of
# the card's processor if the packages are unpacked only, else empty) and PYTHON.
set -eu

card=$UML_WORK/card
fat=$UML_WORK/fat
mkdir "$card" "$fat"
mkfs.ext4 -q -F -L rootfs -U "$ROOT_UUID" -E hash_seed="$ROOT_UUID" /dev/ubda2
mount -o noatime /dev/ubda2 "$card"
tar -C "$card" --numeric-owner --xattrs --xattrs-include='*' -xf "$ROOT_TAR"

if [ -n "$FOREIGN" ]; then
    "$UML_WORK/modprobe" binfmt_misc
    mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
    cat "$GUEST/binfmt-arm64" >/proc/sys/fs/binfmt_misc/register
    # This machine's dpkg unpacks, since it need not be emulated; only scripts are.
    printf 'amd64\narm64\n' >"$card/var/lib/dpkg/arch"
    : >>"$card/var/lib/dpkg/status"
    : >>"$card/var/lib/dpkg/available"
    for table in passwd group; do
        cp "$card/usr/share/base-passwd/$table.master" "$card/etc/$table"
    done
    dpkg --root="$card" --force-architecture --force-depends \
        --unpack "$card"/var/cache/apt/archives/*.deb
    rm "$card/var/lib/dpkg/arch" "$card"/var/cache/apt/archives/*.deb
    emulated() { chroot "$card" /usr/bin/env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 \
        PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"; }
    # The others take these for granted.
    for package in base-passwd base-files libc6 perl-base mawk debconf; do
        emulated dpkg --force-depends --configure "$package"
    done
    emulated dpkg --configure -a
    sed -i s/=no/=yes/ "$card/etc/initramfs-tools/update-initramfs.conf"
    for folder in proc sys dev run; do mount --rbind "/$folder" "$card/$folder"; done
    sh "$GUEST/setup.sh" "$card"
    for folder in run dev sys proc; do umount -R -l "$card/$folder"; done
fi

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
