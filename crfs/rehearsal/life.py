"""Fill a root filesystem with what a lived-in system has, and what copies tend to lose.

Runs as root on a real kernel (in the workbench): `python -m crfs.rehearsal.life ROOT`.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
import stat
import subprocess
import sys
from pathlib import Path

from crfs.rehearsal.inodeflags import APPEND, FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, IMMUTABLE, NODUMP

# Unique strings that stand in files of the root. None of them may be found in the raw bytes of
# the stick at any time, nor in those of the card at the end.
MARKERS = (
    b"crfs-marker-Qm7vT2kXw9LzB4hN-home",
    b"crfs-marker-e8RjY5dPc1UfS6gA-etc",
    b"crfs-marker-H3nWb0ZtVq7KxM2y-var",
    b"crfs-marker-9pLsG4oDi8JrC6uE-sparse",
    b"crfs-marker-T1aFk5XvNz3QyR7m-large",
    b"crfs-marker-B6wUe2HcYj0OtP8d-deleted",
)
LARGE_BYTES = 30 << 20
USERS = (("alice", 1101), ("bob", 1102), ("carol", 1103))


def main() -> None:
    """Command line entry: the only argument is the mounted root."""
    root = Path(sys.argv[1])
    users(root)
    metadata(root / "srv/metadata")
    names(root / "srv/names")
    contents(root / "srv/contents")
    markers(root)


def users(root: Path) -> None:
    """Several people with a home each; identities are by number, as the filesystem keeps them."""
    for name, number in USERS:
        with (root / "etc/passwd").open("a") as table:
            table.write(f"{name}:x:{number}:{number}::/home/{name}:/bin/bash\n")
        with (root / "etc/group").open("a") as table:
            table.write(f"{name}:x:{number}:\n")
        with (root / "etc/shadow").open("a") as table:
            table.write(f"{name}:!:19000:0:99999:7:::\n")
        home = root / "home" / name
        (home / "notes").mkdir(parents=True)
        (home / ".profile").write_text("umask 027\n")
        (home / "notes/today.txt").write_text(f"{name} was here\n" * 50)
        os.link(home / "notes/today.txt", home / "notes/same-file.txt")
        for path in [home, *home.rglob("*")]:
            os.chown(path, number, number)
        home.chmod(0o750)


def metadata(folder: Path) -> None:
    """Owners, modes, links, ACLs, attributes, capabilities, flags, special files and times."""
    folder.mkdir(parents=True)
    first = folder / "hard-link-1"
    first.write_text("three names, one file\n")
    (folder / "elsewhere").mkdir()
    os.link(first, folder / "hard-link-2")
    os.link(first, folder / "elsewhere/hard-link-3")

    acl = folder / "acl"
    acl.mkdir()
    (acl / "file").write_text("for bob as well\n")
    run("setfacl", "-m", "u:1102:rw-,g:1103:r--", acl / "file")
    run("setfacl", "-m", "u:1101:rwx", "-d", "-m", "u:1102:r-x,g:1103:rwx", acl)
    (acl / "inherited").write_text("gets the default ACL\n")

    attributes = folder / "attributes"
    attributes.write_text("user attributes\n")
    os.setxattr(attributes, b"user.crfs.text", b"value with\nnewline")
    os.setxattr(attributes, b"user.crfs.binary", bytes(range(256)))
    os.setxattr(attributes, b"user.crfs.empty", b"")
    os.setxattr(folder, b"user.crfs.folder", b"folders have them, too")
    os.setxattr(attributes, b"trusted.crfs", b"only root sees this")

    capable = folder / "ping-like"
    capable.write_bytes(b"\x7fELF" + bytes(4096))
    capable.chmod(0o755)
    run("setcap", "cap_net_raw,cap_net_bind_service+ep", capable)

    for name, mode in (("setuid", 0o4755), ("setgid", 0o2755), ("none", 0o000), ("all", 0o777)):
        (folder / f"mode-{name}").write_text(name)
        (folder / f"mode-{name}").chmod(mode)
    (folder / "sticky").mkdir()
    (folder / "sticky").chmod(0o1777)
    (folder / "setgid-folder").mkdir()
    (folder / "setgid-folder").chmod(0o2775)
    (folder / "strange-owner").write_text("nobody has this number\n")
    os.chown(folder / "strange-owner", 4_000_000_000, 3_999_999_999)

    os.mkfifo(folder / "fifo", 0o640)
    os.mknod(folder / "character", stat.S_IFCHR | 0o620, os.makedev(1, 3))
    os.mknod(folder / "block", stat.S_IFBLK | 0o660, os.makedev(7, 200))
    before = Path.cwd()
    os.chdir(folder)  # a socket's path has to be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
    os.chdir(before)
    (folder / "link").symlink_to("hard-link-1")
    (folder / "link-dangling").symlink_to("/nowhere/at all")
    (folder / "link-to-folder").symlink_to("elsewhere")
    (folder / "link-long").symlink_to("x/" * 1000)
    os.lchown(folder / "link-dangling", 1101, 1102)

    for name, nanoseconds in (
        ("before-1970", -86_400_000_000_000 * 365 + 123_456_789),
        ("far-future", 7_258_118_400 * 10**9 + 1),
        ("nanoseconds", 1_700_000_000_987_654_321),
        ("epoch", 0),
    ):
        (folder / f"time-{name}").write_text(name)
        os.utime(folder / f"time-{name}", ns=(nanoseconds, nanoseconds))
    os.utime(folder / "link", ns=(10**18, 10**18 + 7), follow_symlinks=False)

    for name, flags in (("immutable", IMMUTABLE), ("append-only", APPEND), ("nodump", NODUMP)):
        (folder / name).write_text(f"{name}\n")
        add_flags(folder / name, flags)
    (folder / "immutable-folder").mkdir()
    (folder / "immutable-folder/inside").write_text("stays\n")
    add_flags(folder / "immutable-folder", IMMUTABLE)


def names(folder: Path) -> None:
    """Names that are legal and that scripts stumble over."""
    folder.mkdir(parents=True)
    raw = os.fsencode(folder)
    for name in (
        b"not-utf8-\xff\xfe\x80",
        b"latin1-caf\xe9",
        "utf8-näïve-日本".encode(),
        b"new\nline",
        b"  spaces at both ends  ",
        b"tab\there",
        b"quote'\"`$(x)",
        b"back\\slash",
        b"-rf",
        b"*",
        b"#hash",
        b"x" * 255,
        b"...",
        b"colon:comma,semicolon;",
    ):
        with open(raw + b"/" + name, "wb") as file:
            file.write(b"name: " + name)
    deep = raw
    for level in range(60):
        deep += b"/level-%02d" % level
    os.makedirs(deep)
    with open(deep + b"/bottom", "wb") as file:
        file.write(b"down here\n")


def contents(folder: Path) -> None:
    """Empty, sparse, large and many small files."""
    folder.mkdir(parents=True)
    (folder / "empty").touch()
    (folder / "empty-folder").mkdir()
    with (folder / "sparse").open("wb") as file:
        file.seek(40 << 20)
        file.write(b"in the middle of nothing")
        file.truncate(200 << 20)
    with (folder / "all-hole").open("wb") as file:
        file.truncate(5 << 20)
    (folder / "zeros").write_bytes(bytes(1 << 20))
    source = random.Random(6)  # noqa: S311 - the same bytes every time are wanted
    (folder / "large").write_bytes(source.randbytes(LARGE_BYTES))
    (folder / "one-byte").write_bytes(b"\n")
    many = folder / "many"
    many.mkdir()
    for number in range(300):
        (many / f"{number:04d}").write_bytes(source.randbytes(number))


def markers(root: Path) -> None:
    """The strings to search raw images for: in files, in a hole's neighbour, in free space."""
    home, etc, var, sparse, large, deleted = MARKERS
    # One string a line and every line alike: wherever a block is cut, some are whole.
    (root / "home/pi/diary.txt").write_bytes((home + b"\n") * 2000)
    (root / "etc/secret.conf").write_bytes(b"password=" + etc + b"\n")
    (root / "var/lib/recorder/old").write_bytes((var + b"\n") * 100)
    with (root / "srv/contents/sparse").open("r+b") as file:
        file.seek(100 << 20)
        file.write(sparse * 20)
    with (root / "srv/contents/large").open("r+b") as file:
        file.seek(LARGE_BYTES // 2)
        file.write(large * 20)
    doomed = root / "srv/contents/deleted"
    with doomed.open("wb") as file:
        file.write((deleted + b"\n") * 20000)
        file.flush()
        os.fsync(file.fileno())
    doomed.unlink()


def add_flags(path: Path, flags: int) -> None:
    """Add inode flags, as chattr does."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        value = bytearray(8)
        fcntl.ioctl(descriptor, FS_IOC_GETFLAGS, value)
        merged = int.from_bytes(value, sys.byteorder) | flags
        fcntl.ioctl(descriptor, FS_IOC_SETFLAGS, merged.to_bytes(8, sys.byteorder))
    finally:
        os.close(descriptor)


def run(*arguments: str | Path) -> None:
    """Run a command that has to succeed."""
    subprocess.run([str(argument) for argument in arguments], check=True)


if __name__ == "__main__":
    main()
