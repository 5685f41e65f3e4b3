#!/bin/sh
# Fill the cheap Pi's card /dev/ubda: a small root that has what copies tend to lose.
#
# Runs as root in the workbench. Wants DISK_ID, GUEST (folder of this script), BUILT (compiled
# programs), CONFIG (a config.txt), PYTHON.
set -eu

card=$UML_WORK/card
fat=$UML_WORK/fat
mkdir "$card" "$fat"
mkfs.ext4 -q -F -b 4096 -I 256 -i 16384 -J size=8 -L rootfs -E hash_seed=53a5b1b4-7069-4f53-8000-63617264cafe /dev/ubda2
mount -o noatime /dev/ubda2 "$card"
cd "$card"

mkdir -p boot/firmware dev proc sys run etc home/pi opt sbin srv tmp var/lib/zymbit var/lib/crfs \
	var/lib/recorder var/log var/tmp usr/bin usr/sbin usr/lib/x86_64-linux-gnu usr/lib64 \
	usr/share/initramfs-tools etc/initramfs-tools/hooks etc/initramfs-tools/conf.d \
	etc/initramfs-tools/scripts usr/lib/cryptsetup/scripts
chmod 1777 tmp var/tmp
ln -s usr/bin bin
ln -s usr/lib lib
ln -s usr/lib64 lib64

# What is under the host's /usr, which the cheap Pi mounts over this: enough to build an initramfs.
cp /usr/bin/busybox usr/bin/
for applet in sh cat cp cpio find ls mkdir rm; do ln -s busybox usr/bin/$applet; done
for library in libc.so.6 libresolv.so.2 ld-linux-x86-64.so.2; do
	cp -L "/usr/lib/x86_64-linux-gnu/$library" usr/lib/x86_64-linux-gnu/
done
ln -s ../lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 usr/lib64/
install -m 755 "$GUEST/mkinitramfs" usr/sbin/mkinitramfs
install -m 644 "$GUEST/hook-functions" usr/share/initramfs-tools/hook-functions

install -m 755 "$BUILT/zktool" sbin/zkgrifs
for name in zklockifs zkunlockifs zkifc; do ln sbin/zkgrifs sbin/$name; done
install -m 755 "$BUILT/recorder" opt/recorder
printf 'ZK_GPIO_WAKE_PIN=4\n' >var/lib/zymbit/zkenv.conf
head -c 32 /dev/urandom >var/lib/zymbit/host_salt.bin

cat >etc/fstab <<END
proc                  /proc           proc    defaults          0       0
PARTUUID=$DISK_ID-01  /boot/firmware  vfat    defaults          0       2
PARTUUID=$DISK_ID-02  /               ext4    defaults,noatime  0       1
END
cp /etc/mke2fs.conf etc/
printf 'root:x:0:0:root:/root:/bin/sh\n' >etc/passwd
printf 'root:x:0:\n' >etc/group
printf 'root:*:19000:0:99999:7:::\n' >etc/shadow
echo raspberrypi >etc/hostname
: >var/lib/recorder/records
cd /
"$PYTHON" -m crfs.rehearsal.cuts.contents "$card"
umount "$card"

# Many names with gaps between them, as on a used boot partition: a name can find its place in
# another sector of the folder than the one it replaces.
fill_folder() { # FIRST LAST
	for number in $(seq "$1" "$2"); do : >"$fat/bcm2712-rpi-5-b-$number.dtb"; done
}
mount -o iocharset=ascii,shortname=mixed /dev/ubda1 "$fat"
fill_folder 10 59
cp "$CONFIG" "$fat/config.txt"
{
	printf 'console=serial0,115200 console=tty1 root=PARTUUID=%s-02 ' "$DISK_ID"
	echo 'rootfstype=ext4 fsck.repair=yes rootwait'
} >"$fat/cmdline.txt"
echo 'The kernel of this board is the emulator itself.' >"$fat/kernel_2712.img"
head -c 300000 /dev/urandom >"$fat/initramfs_2712"
fill_folder 60 89
rm "$fat"/bcm2712-rpi-5-b-?[0-2].dtb
umount "$fat"
