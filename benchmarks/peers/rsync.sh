#!/bin/sh
# rsync to an encrypted stick, and back to a fresh encrypted root.
set -eu
# shellcheck source=benchmarks/peers/common.sh
. "$PEERS/common.sh"

phase copy-out
format "$STICK"
open "$STICK" stage
mkfs.ext4 -q -F /dev/mapper/stage
mount -o noatime /dev/mapper/stage "$stage"
mount -o ro,noatime "$CARD" "$plain"
rsync -aHAXS --numeric-ids "$plain/" "$stage/"
umount "$plain" "$stage"
phase copy-back
format "$CARD"
open "$CARD" root
mkfs.ext4 -q -F /dev/mapper/root
mount -o noatime /dev/mapper/root "$root"
mount -o ro,noatime /dev/mapper/stage "$stage"
rsync -aHAXS --numeric-ids "$stage/" "$root/"
umount "$stage" "$root"
cryptsetup close stage
cryptsetup close root
phase end
