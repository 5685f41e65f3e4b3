#!/bin/sh
# cryptsetup encrypts the partition in place, from another system. No stick.
set -eu
# shellcheck source=benchmarks/peers/common.sh
. "$PEERS/common.sh"

phase shrink
e2fsck -f -y "$CARD" >/dev/null || [ $? -le 1 ]
sectors=$(blockdev --getsz "$CARD")
resize2fs "$CARD" "$((sectors - 32 * 2048))s" 2>/dev/null
phase encrypt
cryptsetup reencrypt --encrypt --batch-mode --type luks2 --reduce-device-size 32M \
	--cipher "$CIPHER" --key-size "$KEY_BITS" --sector-size "$SECTOR" \
	--pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file "$KEY" "$CARD" >/dev/null
phase end
