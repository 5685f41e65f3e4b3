#!/bin/sh
# setup.sh ROOT: make a Raspberry-Pi-like system of the bare Debian in the folder ROOT.
#
# Runs as root, or what passes for root where packages are installed without it. Wants: GUEST
# (folder of this script), BUILT (compiled programs), MODULES_UML (folder of modules of the
# user-mode Linux kernel), BOOT (mount point of the FAT), DISK_ID (8 hex digits of the MBR).
set -eu

card=$1
inside() { chroot "$card" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"; }
mkdir -p "$card$BOOT"

# --- kernel: only the modules that a virtual board has a use for -------------------------------
release=$(basename "$(echo "$card"/boot/vmlinuz-*)")
release=${release#vmlinuz-}
uml_release=$(basename "$MODULES_UML")
cp -r "$MODULES_UML" "$card/usr/lib/modules/"
for version in "$release" "$uml_release"; do
    sh "$GUEST/trim-modules.sh" "$card/usr/lib/modules/$version" "$GUEST/modules.list"
    inside depmod "$version"
done
# initramfs-tools takes a version for a kernel when these two files are there.
: >"$card/boot/vmlinuz-$uml_release"
cp "$card/boot/config-$release" "$card/boot/config-$uml_release"

# --- what makes it a Pi ------------------------------------------------------------------------
cp "$GUEST/config.txt" "$card$BOOT/config.txt"
{
    printf 'console=serial0,115200 console=tty1 root=PARTUUID=%s-02 ' "$DISK_ID"
    echo 'rootfstype=ext4 fsck.repair=yes rootwait'
} >"$card$BOOT/cmdline.txt"
cp "$card/boot/vmlinuz-$release" "$card$BOOT/kernel8.img"
echo 'The kernel of this board is the emulator itself.' >"$card$BOOT/kernel_2712.img"
cat >"$card/etc/fstab" <<END
proc                  /proc           proc    defaults          0       0
PARTUUID=$DISK_ID-01  $BOOT  vfat    defaults          0       2
PARTUUID=$DISK_ID-02  /               ext4    defaults,noatime  0       1
END
echo raspberrypi >"$card/etc/hostname"
printf '127.0.0.1\tlocalhost\n::1\t\tlocalhost\n127.0.1.1\traspberrypi\n' >"$card/etc/hosts"
inside useradd -m -s /bin/bash -G sudo,users,adm,systemd-journal pi
echo pi:raspberry | inside chpasswd
echo 'pi ALL=(ALL) NOPASSWD: ALL' >"$card/etc/sudoers.d/010_pi-nopasswd"
chmod 440 "$card/etc/sudoers.d/010_pi-nopasswd"
mkdir -p "$card/var/log/journal"
inside systemd-tmpfiles --create --prefix /var/log/journal 2>/dev/null || true

# --- the initramfs, and its way to the FAT -----------------------------------------------------
sed -i 's/^MODULES=.*/MODULES=dep/; s/^COMPRESS=.*/COMPRESS=zstd/' \
    "$card/etc/initramfs-tools/initramfs.conf"
echo 'COMPRESSLEVEL=1' >"$card/etc/initramfs-tools/conf.d/fast"
grep -v '^#' "$GUEST/initramfs-modules" >>"$card/etc/initramfs-tools/modules"
grep -v '^#' "$GUEST/modules-load" >"$card/etc/modules-load.d/bench.conf"

# --- HSM6, recorder, reports to the firmware ---------------------------------------------------
install -m 644 "$BUILT/libzk_app_utils.so" "$card/usr/lib/libzk_app_utils.so"
install -m 755 "$BUILT/zktool" "$card/usr/sbin/zkgrifs"
ln "$card/usr/sbin/zkgrifs" "$card/usr/sbin/zklockifs"
ln "$card/usr/sbin/zkgrifs" "$card/usr/sbin/zkunlockifs"
install -m 755 "$BUILT/zktool" "$card/usr/bin/zkifc"
install -d -m 755 "$card/var/lib/zymbit"
printf 'ZK_GPIO_WAKE_PIN=4\n' >"$card/var/lib/zymbit/zkenv.conf"
head -c 32 /dev/urandom >"$card/var/lib/zymbit/host_salt.bin"
head -c 96 /dev/urandom >"$card/var/lib/zymbit/zk_device_state.bin"
# The bus that a module would be on: its node only, as nothing but zkifc would talk through it.
echo 'c /dev/i2c-1 0660 root root - 89:1' >"$card/etc/tmpfiles.d/i2c.conf"
install -m 755 "$BUILT/recorder" "$card/usr/bin/recorder"
install -d -m 755 "$card/var/lib/recorder"
install -m 755 "$GUEST/boot-report" "$card/usr/lib/boot-report"
install -D -m 755 "$GUEST/zz-firmware" "$card/usr/lib/systemd/system-shutdown/zz-firmware"
for unit in zkifc.service zkbootrtc.service recorder.service boot-report.service; do
    install -m 644 "$GUEST/$unit" "$card/etc/systemd/system/$unit"
    inside systemctl enable -q "$unit"
done

# --- quick to boot, and quiet ------------------------------------------------------------------
install -D -m 644 "$GUEST/wired.network" "$card/etc/systemd/network/wired.network"
inside systemctl enable -q systemd-networkd.service ssh.service
inside systemctl set-default -q multi-user.target
# shellcheck disable=SC2046  # one word a unit
inside systemctl mask -q $(grep -v '^#' "$GUEST/masked-units")
inside ldconfig

# MODULES=dep looks at the devices of the machine that runs: not this one's, this time.
sed -i 's/^MODULES=.*/MODULES=list/' "$card/etc/initramfs-tools/initramfs.conf"
inside rm -f "/boot/initrd.img-$release"
for version in "$release" "$uml_release"; do inside update-initramfs -c -k "$version"; done
sed -i 's/^MODULES=.*/MODULES=dep/' "$card/etc/initramfs-tools/initramfs.conf"
cp "$card/boot/initrd.img-$release" "$card$BOOT/initramfs8"
cp "$card/boot/initrd.img-$uml_release" "$card$BOOT/initramfs_2712"
# Last, as its place to write to is not a mount point yet.
install -D -m 755 "$GUEST/z50-raspi-firmware" \
    "$card/etc/initramfs/post-update.d/z50-raspi-firmware"

rm -rf "$card"/var/cache/apt/*.bin "$card"/var/log/apt "$card"/var/log/*.log
