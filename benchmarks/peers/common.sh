# Functions of all peers: phases, LUKS. Wants in the environment: CARD (the root partition), STICK,
# KEY (a file), CIPHER, KEY_BITS, SECTOR, UML_WORK.
# shellcheck shell=sh

# Whatever was written is on the medium before the next phase begins, and nothing is left in memory
# that would make reading it cheaper.
phase() {
	sync
	echo 3 >/proc/sys/vm/drop_caches
	read -r uptime _ </proc/uptime
	echo "@phase $1 $uptime"
}

# With the options of crfs.
format() {
	cryptsetup luksFormat --batch-mode --type luks2 --cipher "$CIPHER" --key-size "$KEY_BITS" \
		--sector-size "$SECTOR" --pbkdf pbkdf2 --pbkdf-force-iterations 1000 \
		--key-file "$KEY" "$1"
}

open() {
	cryptsetup open --key-file "$KEY" "$1" "$2"
}

plain=$UML_WORK/plain
stage=$UML_WORK/stage
root=$UML_WORK/root
mkdir -p "$plain" "$stage" "$root"
