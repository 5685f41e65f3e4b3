"""What differs on the encrypted root from the plain one: a few files, declared here once.

They are written to the copy only. The card's own root is never edited, so going back needs no
undoing. All are plain files outside the package, so that the encrypted system keeps booting when
the package is removed.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from crfs.bootconfig import KEYSCRIPT
from crfs.errors import CARD_UNTOUCHED, HostError
from crfs.model import HSM6, ROOT_MAPPING, SEALED_KEY, TPM2, Plan

# Installed by the package; beside the sources when crfs runs from a checkout.
SOURCES = (
    Path("/usr/share/crfs/initramfs-hooks"),
    Path(__file__).resolve().parent.parent / "initramfs-hooks",
)

# Our scripts, and where they go on the encrypted root.
_SCRIPTS = {
    "hook": "etc/initramfs-tools/hooks/crfs",
    "functions": "etc/initramfs-tools/scripts/crfs-functions",
    "local-top": "etc/initramfs-tools/scripts/local-top/crfs",
    "local-bottom": "etc/initramfs-tools/scripts/local-bottom/crfs",
    "zk_get_key": "usr" + KEYSCRIPT,
    "post-update": "etc/initramfs/post-update.d/zz-crfs",
    "kernel-installed": "etc/kernel/postinst.d/zz-crfs",
}
_CONF = "etc/initramfs-tools/conf.d/crfs"
_CONF_TEXT = "# Written by crfs: the initramfs opens the root.\nUMASK=0077\n"
# Its presence tells keyscript and hook that it is a TPM that opens the key.
TPM2_SCRIPT = "crfs-tpm2"
_TPM2_PLACE = "etc/initramfs-tools/scripts/crfs-tpm2"

# What a comparison of the copy with its source passes over.
DRESSED = frozenset(
    [
        *_SCRIPTS.values(),
        _CONF,
        SEALED_KEY,
        _TPM2_PLACE,
        "etc/crypttab",
        "etc/fstab",
        # Folders that may be new.
        "etc/initramfs",
        "etc/initramfs/post-update.d",
        "etc/kernel",
        "etc/kernel/postinst.d",
        "etc/initramfs-tools/scripts/local-top",
        "etc/initramfs-tools/scripts/local-bottom",
    ]
)


def is_dressed(name: bytes) -> bool:
    """Whether a file differs on purpose between plain and encrypted root."""
    return os.fsdecode(name) in DRESSED


def scripts() -> Path:
    """The folder with crfs's scripts for the initramfs. Raises HostError."""
    for folder in SOURCES:
        if folder.is_dir():
            return folder
    raise HostError("The initramfs scripts of crfs are missing.", advice="reinstall crfs")


def dress(root: Path, plan: Plan, sealed_key: bytes) -> None:
    """Turn a copy of the plain root into the encrypted root's content. Repeatable."""
    source = scripts()
    _require_own_folders(root)
    for name, place in _SCRIPTS.items():
        mode = 0o644 if name == "functions" else 0o755
        _place(root / place, (source / name).read_bytes(), mode)
    _place(root / _CONF, _CONF_TEXT.encode(), 0o644)
    if plan.binding == HSM6:
        _place(root / SEALED_KEY, sealed_key, 0o600)
    if plan.binding == TPM2:
        _place(root / _TPM2_PLACE, (source / TPM2_SCRIPT).read_bytes(), 0o755)
    for name, edit in (("etc/crypttab", _crypttab), ("etc/fstab", _fstab)):
        path = root / name
        old, mode = b"", 0o644
        if path.exists():
            old, mode = path.read_bytes(), path.stat().st_mode & 0o7777
        text = edit(old.decode(errors="surrogateescape"), plan)
        _place(path, text.encode(errors="surrogateescape"), mode)


def _require_own_folders(root: Path) -> None:
    """What is written to the copy must not land elsewhere. Raises HostError."""
    top = root.resolve()
    for name in sorted(DRESSED):
        folder = (root / name).parent.resolve()
        if not folder.is_relative_to(top):
            raise HostError(
                f"/{Path(name).parent} is or lies behind a symbolic link with an absolute path.",
                data=CARD_UNTOUCHED,
                advice="make it a folder, or the link a relative one, then 'sudo crfs resume'",
            )


def _crypttab(text: str, plan: Plan) -> str:
    return edit_crypttab(text, plan.uuids.root_luks)


def _fstab(text: str, plan: Plan) -> str:
    return edit_fstab(text)


def edit_crypttab(text: str, luks_uuid: str) -> str:
    """crypttab with our entry for the root, all others as they were.

    `noauto,x-initrd.attach`: the initramfs opens it; systemd does not know keyscripts.
    """
    lines = text.removesuffix("\n").split("\n") if text else []
    others = [line for line in lines if line.split()[:1] != [ROOT_MAPPING]]
    options = f"luks,initramfs,keyscript={KEYSCRIPT},tries=100,noauto,x-initrd.attach"
    return "\n".join([*others, f"{ROOT_MAPPING} UUID={luks_uuid} none {options}"]) + "\n"


def edit_fstab(text: str) -> str:
    """fstab with the mapping as the device of /, everything else as it was.

    But for growing at boot: crfs lets the filesystem grow, over what it has cleared.
    """
    lines = []
    for line in text.split("\n"):
        fields = re.match(r"(\s*)([^#\s]\S*)(\s+/\s.*)$", line)
        if fields:
            rest = re.sub(r"(?<=\s/)(\s+\S+\s+)(\S+)", _without_growing, fields[3], count=1)
            line = f"{fields[1]}/dev/mapper/{ROOT_MAPPING}{rest}"
        lines.append(line)
    return "\n".join(lines)


def _without_growing(found: re.Match[str]) -> str:
    options = [one for one in found[2].split(",") if one != "x-systemd.growfs"]
    return found[1] + (",".join(options) or "defaults")


def _place(path: Path, content: bytes, mode: int) -> None:
    """Write a file, leaving the times of its folder as they were: they are the user's."""
    # Where folders are new, it is the one above them that is changed.
    folder = next(one for one in path.parents if one.exists())
    times = folder.stat()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    os.utime(folder, ns=(times.st_atime_ns, times.st_mtime_ns))
