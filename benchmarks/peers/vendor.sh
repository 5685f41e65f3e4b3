#!/bin/sh
# As the vendor's script goes about it: a compressed archive of the root on the stick, and a plain
# root there to boot from; then an encrypted root on the card, filled from the archive. The reboot
# in between is not in it.
set -eu
# shellcheck source=benchmarks/peers/common.sh
. "$PEERS/common.sh"

phase copy-out
mkfs.ext4 -q -F "$STICK"
mount -o noatime "$STICK" "$stage"
mount -o ro,noatime "$CARD" "$plain"
tar -C "$plain" --numeric-owner -czpf "$stage/root.tar.gz" . 2>"$UML_WORK/said" || {
	cat "$UML_WORK/said"
	exit 1
}
phase boot-copy
rsync -aHAX --numeric-ids "$plain/" "$stage/boot-root/"
umount "$plain" "$stage"
phase copy-back
mount -o noatime "$STICK" "$stage"
format "$CARD"
open "$CARD" root
mkfs.ext4 -q -F /dev/mapper/root
mount -o noatime /dev/mapper/root "$root"
tar -C "$root" --numeric-owner -xzpf "$stage/root.tar.gz"
umount "$stage" "$root"
cryptsetup close root
phase end
