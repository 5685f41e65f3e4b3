"""What is on a root filesystem, file by file, and where two of them differ.

`python -m crfs.rehearsal.manifest ROOT` (as root) prints one JSON object a line, sorted by path.
`card_manifest` does that in the workbench for the root partition of a card image.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shlex
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from crfs.rehearsal.inodeflags import FS_IOC_GETFLAGS, USER_FLAGS
from crfs.rehearsal.workbench import run_in_uml

Entry = dict[str, Any]
Manifest = dict[str, Entry]
CHUNK = 1 << 20
# A copy may place blocks otherwise, but holes have to stay holes: this much more is tolerated.
BLOCKS_SLACK = 2048
TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "folder",
    stat.S_IFLNK: "link",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}


@dataclass(frozen=True)
class Lawful:
    """Files that may differ, by a pattern of their path, and why.

    `fields` names what may differ; empty: all of it, and the file may come or go.
    """

    pattern: str
    reason: str
    fields: frozenset[str] = frozenset()

    def allows(self, path: str, field: str) -> bool:
        """Whether `field` of `path` may differ; the field of a file that came or went is ""."""
        return (not self.fields or field in self.fields) and fnmatchcase(path, self.pattern)


def walk(root: Path) -> Iterator[Entry]:
    """Entries of all files below `root`, of one filesystem, with `root` itself as "/"."""
    device = root.lstat().st_dev
    groups: dict[int, str] = {}
    pending = [(root, "/")]
    while pending:
        path, name = pending.pop()
        info = path.lstat()
        if info.st_dev != device:
            continue
        yield describe(path, name, info, groups)
        if stat.S_ISDIR(info.st_mode):
            prefix = name.rstrip("/")
            children = sorted(os.listdir(path), reverse=True)
            pending += [(path / child, f"{prefix}/{child}") for child in children]


def describe(path: Path, name: str, info: os.stat_result, groups: dict[int, str]) -> Entry:
    """All that a copy of the file has to keep. `groups` remembers the inodes already met."""
    kind = stat.S_IFMT(info.st_mode)
    entry: Entry = {
        "path": name,
        "type": TYPES[kind],
        "mode": f"{stat.S_IMODE(info.st_mode):04o}",
        "uid": info.st_uid,
        "gid": info.st_gid,
        "mtime": info.st_mtime_ns,
    }
    names = sorted(os.listxattr(path, follow_symlinks=False))
    if names:
        entry["xattrs"] = {
            key: os.getxattr(path, key, follow_symlinks=False).hex() for key in names
        }
    if kind in (stat.S_IFREG, stat.S_IFDIR):
        entry["flags"] = user_flags(path)
    if kind == stat.S_IFREG:
        entry |= {"size": info.st_size, "blocks": info.st_blocks, "sha256": sha256(path)}
    elif kind == stat.S_IFLNK:
        entry["target"] = os.readlink(path)
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        entry["device"] = [os.major(info.st_rdev), os.minor(info.st_rdev)]
    if info.st_nlink > 1 and kind != stat.S_IFDIR:
        entry["links"] = info.st_nlink
        entry["same_as"] = groups.setdefault(info.st_ino, name)
    return entry


def user_flags(path: Path) -> int:
    """The inode flags that a user can set (chattr)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        value = bytearray(8)
        fcntl.ioctl(descriptor, FS_IOC_GETFLAGS, value)
    finally:
        os.close(descriptor)
    return int.from_bytes(value[:4], sys.byteorder) & USER_FLAGS


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hex."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            total.update(chunk)
    return total.hexdigest()


def card_manifest(card: Path, *, key: bytes | None = None, timeout: float = 300) -> Manifest:
    """The manifest of the root partition of a card image, by path; see `read_root`."""
    return read_root(card, key=key, timeout=timeout)[0]


def read_root(
    card: Path, *, key: bytes | None = None, files: Sequence[str] = (), timeout: float = 300
) -> tuple[Manifest, dict[str, bytes]]:
    """Manifest of the root partition of a card image, and the content of some of its `files`.

    The image is not changed. `key` opens the partition if it is LUKS. `timeout` in seconds.
    Raises RehearsalError if it cannot be opened or mounted, or if one of the files is missing.
    """
    package_parent = shlex.quote(str(Path(__file__).resolve().parents[2]))
    python = f"{shlex.quote(sys.executable)} -B -m crfs.rehearsal.manifest"
    script = [f'cd {package_parent}; mkdir "$UML_WORK/root"']
    with tempfile.TemporaryDirectory() as name:
        device = "/dev/ubda2"
        if key is not None:
            (Path(name) / "key").write_bytes(key)
            script.append(f"cryptsetup open --key-file {name}/key {device} root || exit")
            device = "/dev/mapper/root"
        script.append(f'mount -o noatime {device} "$UML_WORK/root" || exit')
        script.append(f'{python} "$UML_WORK/root" >{name}/manifest || exit')
        for number, path in enumerate(files):
            script.append(f'cat "$UML_WORK/root"{shlex.quote(path)} >{name}/{number} || exit')
        run_in_uml("\n".join(script), disks=[card], keep_writes=False, timeout=timeout, check=True)
        contents = {
            path: (Path(name) / str(number)).read_bytes() for number, path in enumerate(files)
        }
        return load((Path(name) / "manifest").read_text().splitlines()), contents


def load(lines: Iterable[str]) -> Manifest:
    """A manifest from its JSON lines."""
    entries = (json.loads(line) for line in lines)
    return {entry["path"]: entry for entry in entries}


def dump(manifest: Manifest) -> str:
    """The JSON lines of a manifest, sorted by path."""
    return "".join(json.dumps(manifest[path], sort_keys=True) + "\n" for path in sorted(manifest))


def compare(old: Manifest, new: Manifest, lawful: Iterable[Lawful] = ()) -> list[str]:
    """Where `new` differs from `old`, one line a difference, except for what is lawful."""
    rules = list(lawful)
    found = []
    for path in sorted(old.keys() | new.keys()):
        if path not in new or path not in old:
            if not any(rule.allows(path, "") for rule in rules):
                found.append(f"{path!r}: {'appeared' if path in new else 'is gone'}")
            continue
        before, after = old[path], new[path]
        for field in sorted(before.keys() | after.keys()):
            was, now = before.get(field), after.get(field)
            if was == now or (field == "blocks" and (now or 0) <= (was or 0) + BLOCKS_SLACK):
                continue
            if not any(rule.allows(path, field) for rule in rules):
                found.append(f"{path!r}: {field} was {was!r}, is {now!r}")
    return found


def main() -> None:
    """Command line entry: print the manifest of the folder given."""
    for entry in walk(Path(sys.argv[1])):
        print(json.dumps(entry, sort_keys=True))


if __name__ == "__main__":
    main()
