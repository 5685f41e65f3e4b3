"""What may differ between the plain root, as it was left, and the encrypted one at the end.

Everything else has to be the same, contents and metadata. Each entry says why it may not be.
"""

from __future__ import annotations

from crfs.rehearsal.manifest import Lawful

FOLDER_TIMES = frozenset({"mtime"})
BOOT = "two boots have passed in between"
APPLICATION = "the application goes on; its records are counted one by one"
MIGRATION = "this is what makes the root an encrypted one"
INITRAMFS = "the initramfs now opens the root"

REPORT = "crfs keeps the report of the migration there"

LAWFUL = (
    Lawful("/var/lib/crfs", REPORT),
    Lawful("/var/lib/crfs/*", REPORT),
    Lawful("/var/lib", REPORT, FOLDER_TIMES),
    Lawful("/etc/crypttab", MIGRATION),
    Lawful("/etc/fstab", MIGRATION),
    Lawful("/var/lib/zymbit/key.bin.lock", MIGRATION),
    Lawful("/etc/initramfs-tools/hooks/crfs", INITRAMFS),
    Lawful("/etc/initramfs-tools/conf.d/crfs", INITRAMFS),
    Lawful("/etc/initramfs-tools/scripts/crfs-functions", INITRAMFS),
    Lawful("/etc/initramfs-tools/scripts/crfs-tpm2", INITRAMFS),
    Lawful("/etc/initramfs-tools/scripts/local-*/crfs", INITRAMFS),
    Lawful("/etc/initramfs/post-update.d/zz-crfs", INITRAMFS),
    Lawful("/etc/kernel/postinst.d/zz-crfs", INITRAMFS),
    Lawful("/var/swap", "swap is made anew, so that nothing of the memory goes along"),
    Lawful("/usr/lib/cryptsetup/scripts/zk_get_key", INITRAMFS),
    Lawful("/var/lib/recorder/records", APPLICATION),
    Lawful("/var/log/*", BOOT),
    Lawful("/var/lib/systemd/*", BOOT),
    Lawful("/var/lib/private/*", BOOT),
    Lawful("/var/tmp/*", BOOT),  # noqa: S108 - on the card, not on this machine
    Lawful("/var/tmp", BOOT, FOLDER_TIMES),  # noqa: S108
    Lawful("/tmp/*", BOOT),  # noqa: S108
    Lawful("/tmp", BOOT, FOLDER_TIMES),  # noqa: S108
)
