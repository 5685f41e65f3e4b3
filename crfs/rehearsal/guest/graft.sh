#!/bin/sh
# Make a copy of somebody's own card bootable on a virtual board.
#
# Runs as root in the workbench: the copy is /dev/ubda, a base image of the same processor
# /dev/ubdb. The copy gets the board's kernel, its modules and initramfs, the simulated HSM6, and a
# user to log in as. Everything else stays as it is.
set -eu

own=$UML_WORK/own
base=$UML_WORK/base
fat=$UML_WORK/fat
mkdir "$own" "$base" "$fat"
mount -o noatime /dev/ubda2 "$own"
mount -o ro,noload /dev/ubdb2 "$base"
mount -o iocharset=ascii,shortname=mixed /dev/ubda1 "$fat"

# --- kernel ------------------------------------------------------------------------------------
mkdir -p "$own/usr/lib/modules"
cp -a "$base"/usr/lib/modules/. "$own/usr/lib/modules/"
cp -a "$base"/boot/vmlinuz-* "$base"/boot/config-* "$base"/boot/initrd.img-* "$own/boot/"
mkdir "$UML_WORK/base-fat"
mount -o ro,iocharset=ascii,shortname=mixed /dev/ubdb1 "$UML_WORK/base-fat"
for file in kernel8.img kernel_2712.img initramfs8 initramfs_2712; do
    cp "$UML_WORK/base-fat/$file" "$fat/$file"
done
for file in etc/initramfs-tools/modules etc/modules-load.d/bench.conf \
    etc/tmpfiles.d/i2c.conf etc/initramfs/post-update.d/z50-raspi-firmware; do
    mkdir -p "$own/${file%/*}"
    cp -a "$base/$file" "$own/$file"
done
grep -q '^auto_initramfs=1' "$fat/config.txt" ||
    printf '\n[all]\nauto_initramfs=1\n' >>"$fat/config.txt"

# --- HSM6 and reports to the firmware ----------------------------------------------------------
for file in usr/lib/libzk_app_utils.so usr/sbin/zkgrifs usr/sbin/zklockifs usr/sbin/zkunlockifs \
    usr/bin/zkifc usr/lib/boot-report usr/lib/systemd/system-shutdown/zz-firmware; do
    cp -a "$base/$file" "$own/$file"
done
[ -d "$own/var/lib/zymbit" ] || cp -a "$base/var/lib/zymbit" "$own/var/lib/"
wanted=$own/etc/systemd/system/multi-user.target.wants
mkdir -p "$wanted" "$own/etc/systemd/system/sysinit.target.wants"
for unit in zkifc zkbootrtc; do
    cp -a "$base/etc/systemd/system/$unit.service" "$own/etc/systemd/system/"
    ln -sf "/etc/systemd/system/$unit.service" "$wanted/$unit.service"
done
cp -a "$base/etc/systemd/system/boot-report.service" "$own/etc/systemd/system/"
ln -sf /etc/systemd/system/boot-report.service \
    "$own/etc/systemd/system/sysinit.target.wants/boot-report.service"

# --- somebody to log in as ---------------------------------------------------------------------
password=$(sed -n 's/^pi:\([^:]*\):.*/\1/p' "$base/etc/shadow")
if grep -q '^pi:' "$own/etc/passwd"; then
    sed -i "s|^pi:[^:]*:|pi:$password:|" "$own/etc/shadow"
else
    echo 'pi:x:1999:100::/home/pi:/bin/bash' >>"$own/etc/passwd"
    echo "pi:$password:19000:0:99999:7:::" >>"$own/etc/shadow"
fi
mkdir -p "$own/home/pi"
cp -a "$base/etc/sudoers.d/010_pi-nopasswd" "$own/etc/sudoers.d/"
umount "$fat" "$UML_WORK/base-fat" "$own" "$base"
