"""Raw disk images: partition table, FAT, sparse copies, files on an ext4; all without mounts."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from crfs.errors import RehearsalError
from crfs.rehearsal.programs import program

SECTOR = 512
MIB = 1 << 20


@dataclass(frozen=True)
class Partition:
    """One partition of an image: its number, where it lies (bytes), and its MBR type."""

    number: int
    start: int
    size: int
    kind: int


def make_empty(image: Path, size: int) -> None:
    """Make `image` a sparse file of `size` bytes, all zero."""
    image.parent.mkdir(parents=True, exist_ok=True)
    image.unlink(missing_ok=True)
    with image.open("wb") as file:
        file.truncate(size)


def partition_disk(image: Path, partitions: Sequence[tuple[int, int, str]], disk_id: str) -> None:
    """Write an MBR with the given partitions (start and size in bytes, type in hex)."""
    lines = ["label: dos", f"label-id: {disk_id}", "unit: sectors"]
    lines += [f"{start // SECTOR},{size // SECTOR},{kind}" for start, size, kind in partitions]
    run(["sfdisk", "-q", str(image)], text="\n".join(lines) + "\n")


def make_fat(image: Path, start: int, size: int, label: str) -> None:
    """Make a FAT32 filesystem in the bytes `start` to `start + size` of an image."""
    # With fewer clusters than this many tools take it for a FAT16.
    cluster = next(sectors for sectors in (8, 4, 2, 1) if size // (sectors * SECTOR) > 70_000)
    where = ["--offset", str(start // SECTOR), str(image), str(size // 1024)]
    run(["mkfs.vfat", "-F", "32", "-s", str(cluster), "-n", label, *where])


def partitions_of(image: Path) -> list[Partition]:
    """The partitions that the MBR of an image names; empty if it has no MBR."""
    with image.open("rb") as file:
        sector = file.read(SECTOR)
    if len(sector) < SECTOR or sector[510:] != b"\x55\xaa":
        return []
    found = []
    for number in range(1, 5):
        entry = sector[446 + 16 * (number - 1) :][:16]
        start = int.from_bytes(entry[8:12], "little") * SECTOR
        size = int.from_bytes(entry[12:16], "little") * SECTOR
        if entry[4] and size:
            found.append(Partition(number, start, size, entry[4]))
    return found


def write_files(card: Path, files: dict[str, Path]) -> None:
    """Put files of the host on the card's plain ext4 root, owned by root, in place of old ones."""
    root = next(part for part in partitions_of(card) if part.number == 2)
    commands = []
    for target, source in files.items():
        commands += [f'rm "{target}"', f'write "{source.resolve()}" "{target}"']
        commands += [f'sif "{target}" uid 0', f'sif "{target}" gid 0']
    run(
        ["debugfs", "-w", "-f", "-", f"{card}?offset={root.start}"],
        text="\n".join(commands) + "\n",
    )


def copy_sparse(source: Path, target: Path) -> None:
    """Copy an image; holes stay holes, and blocks are shared where the filesystem can."""
    target.parent.mkdir(parents=True, exist_ok=True)
    run(["cp", "--reflink=auto", "--sparse=always", str(source), str(target)])


def run(arguments: Sequence[str], text: str | None = None) -> str:
    """Run a command of the host and return its standard output; raise if it fails."""
    path = program(arguments[0], "coreutils dosfstools e2fsprogs fdisk mtools")
    done = subprocess.run(
        [path, *arguments[1:]], input=text, text=True, capture_output=True, check=False
    )
    if done.returncode != 0:
        raise RehearsalError(f"{' '.join(arguments)} failed:\n{done.stderr or done.stdout}")
    return done.stdout
