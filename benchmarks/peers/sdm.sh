#!/bin/sh
# As sdm goes about it, from another system: the root is made as small as it gets, its blocks go
# compressed to the stick and come back to an encrypted root.
set -eu
# shellcheck source=benchmarks/peers/common.sh
. "$PEERS/common.sh"

# The exit code of dd alone would say nothing of what is before it in a pipe.
checked() {
	"$@" || echo "$*" >>"$UML_WORK/failed"
}

phase shrink
e2fsck -f -y "$CARD" >/dev/null || [ $? -le 1 ]
resize2fs -M "$CARD" 2>/dev/null
blocks=$(dumpe2fs -h "$CARD" 2>/dev/null | sed -n 's/^Block count: *//p')
phase copy-out
checked dd if="$CARD" bs=4096 count="$blocks" status=none iflag=fullblock | checked lz4 -q -c |
	dd of="$STICK" bs=1M iflag=fullblock conv=fsync 2>"$UML_WORK/said"
size=$(sed -n 's/^\([0-9]*\) bytes.*/\1/p' "$UML_WORK/said")
phase copy-back
format "$CARD"
open "$CARD" root
checked head -c "$size" "$STICK" | checked lz4 -q -d -c |
	dd of=/dev/mapper/root bs=1M iflag=fullblock conv=fsync status=none
phase grow
e2fsck -f -y /dev/mapper/root >/dev/null || [ $? -le 1 ]
resize2fs /dev/mapper/root 2>/dev/null
cryptsetup close root
phase end
[ ! -e "$UML_WORK/failed" ]
