#!/bin/sh
# Make a machine that installs a Debian of a foreign processor: $WORK/kernel, $WORK/initramfs.
#
# Runs on the host as root, or what passes for root. Nothing of the foreign processor runs here: the
# initramfs is the first stage of debootstrap, with install.sh as its first process and all that
# setup.sh wants in /build. Wants what setup.sh wants, and ARCH, SUITE, PACKAGES, DPKG_CONFIG.
set -eu

root=$WORK/root
debootstrap --foreign --variant=minbase --arch="$ARCH" --include="$PACKAGES" "$SUITE" "$root"
mkdir -p "$root/etc/dpkg/dpkg.cfg.d" "$root/etc/initramfs-tools" "$root/build/modules"
printf %s "$DPKG_CONFIG" >"$root/etc/dpkg/dpkg.cfg.d/card"
# The initramfs of the bare system is thrown away: do not spend time on building it.
echo update_initramfs=no >"$root/etc/initramfs-tools/update-initramfs.conf"

cp -r "$GUEST" "$root/build/guest"
mkdir "$root/build/built"
cp "$BUILT"/libzk_app_utils.so "$BUILT"/zktool "$BUILT"/recorder "$root/build/built"
cp -r "$MODULES_UML" "$root/build/modules/"
install -m 755 "$GUEST/foreign/install.sh" "$root/init"

dpkg-deb --fsys-tarfile "$root"/var/cache/apt/archives/linux-image-[0-9]*.deb |
    tar -xO --wildcards './boot/vmlinuz-*' >"$WORK/kernel"
cd "$root"
find . | cpio -o -H newc --quiet >"$WORK/initramfs"
