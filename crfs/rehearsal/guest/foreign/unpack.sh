#!/bin/sh
# Make a machine that installs a Debian of a foreign processor: $WORK/kernel, $WORK/initramfs.
#
# Runs on the host as root, or what passes for root. Nothing of the foreign processor runs here: the
# initramfs is the first stage of debootstrap, with install.sh as its first process and all that
# setup.sh wants in /build. Wants what setup.sh wants, and ARCH, SUITE, PACKAGES and LEFT_OUT (path
# patterns, one a line).
set -eu

root=$WORK/root
debootstrap --foreign --variant=minbase --arch="$ARCH" --include="$PACKAGES" "$SUITE" "$root"
mkdir -p "$root/etc/dpkg/dpkg.cfg.d" "$root/etc/initramfs-tools" "$root/build/modules"
{
    echo force-confold
    echo "$LEFT_OUT" | sed 's/^/path-exclude=/'
} >"$root/etc/dpkg/dpkg.cfg.d/card"
# The initramfs of the bare system is thrown away: do not spend time on building it.
echo update_initramfs=no >"$root/etc/initramfs-tools/update-initramfs.conf"

# Unpacking what is compressed, or is left out anyway, takes an emulated machine minutes.
for deb in "$root"/var/cache/apt/archives/*.deb; do
    dpkg-deb --raw-extract "$deb" "$WORK/deb"
    find "$WORK/deb" -path '*/boot/vmlinuz-*' -exec cp {} "$WORK/kernel" \;
    (cd "$WORK/deb" && echo "$LEFT_OUT" | while read -r pattern; do
        # Modules are in /lib here: their way to /usr/lib is a link of the installed system.
        find . \( -path ".$pattern" -o -path ".${pattern#/usr}" \) ! -type d -delete
    done)
    dpkg-deb -Znone --nocheck --build "$WORK/deb" "$deb"
    rm -r "$WORK/deb"
done

cp -r "$GUEST" "$root/build/guest"
mkdir "$root/build/built"
cp "$BUILT"/libzk_app_utils.so "$BUILT"/zktool "$BUILT"/recorder "$root/build/built"
cp -r "$MODULES_UML" "$root/build/modules/"
install -m 755 "$GUEST/foreign/install.sh" "$root/init"
cd "$root"
find . | cpio -o -H newc --quiet >"$WORK/initramfs"
