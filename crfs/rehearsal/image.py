"""Card and stick images, laid out as Raspberry Pi OS lays them out.

A base image takes minutes and is kept in a cache under a hash of everything that goes into it; a
card is a sparse copy of it, with what differs written into that copy.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crfs.errors import RehearsalError
from crfs.rehearsal import debian
from crfs.rehearsal.workbench import MODULES, run_in_uml

GUEST = Path(__file__).parent / "guest"
SECTOR = 512
MIB = 1 << 20
CARD_BYTES = 1024 * MIB  # the emulated SD card wants a power of two
STICK_BYTES = 2048 * MIB
FAT_START = 4 * MIB
FAT_BYTES = 128 * MIB
ROOT_START = FAT_START + FAT_BYTES
COMPILERS = {"amd64": "gcc", "arm64": "aarch64-linux-gnu-gcc"}
BOOT_MOUNTS = ("/boot/firmware", "/boot")


@dataclass(frozen=True)
class Partition:
    """One partition of an image: its number, where it lies (bytes), and its MBR type."""

    number: int
    start: int
    size: int
    kind: int


@dataclass(frozen=True)
class CardOptions:
    """What may differ between two cards of the same base.

    `tryboot` tells crfs whether the firmware has one-shot boot. `files` are put on the root as
    they are: path on the card -> file of the host.
    """

    tryboot: bool = True
    files: dict[str, Path] = field(default_factory=dict)


def compose_card(
    card: Path,
    *,
    arch: str = "amd64",
    boot: str = "/boot/firmware",
    options: CardOptions | None = None,
    cache: Path = Path("build/rehearsal"),
) -> None:
    """Make a new card at `card`: a copy of the base image, which is built if it is not there."""
    options = options or CardOptions()
    base = build_base(arch=arch, boot=boot, cache=cache)
    copy_sparse(base, card)
    with tempfile.TemporaryDirectory() as name:
        conf = Path(name) / "crfs.conf"
        conf.write_text(f"[boot]\ntryboot = {'yes' if options.tryboot else 'no'}\n")
        write_files(card, {"/etc/crfs.conf": conf, **options.files})


def compose_stick(stick: Path, size: int = STICK_BYTES) -> None:
    """Make a used stick at `stick`: one old FAT partition with a file on it."""
    make_empty(stick, size)
    partition_disk(stick, [(1 * MIB, size - 1 * MIB, "c")], "0x5713c0de")
    make_fat(stick, 1 * MIB, size - 1 * MIB, "OLDSTICK")
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as note:
        note.write("Holiday pictures were here.\n")
        note.flush()
        run(["mcopy", "-i", f"{stick}@@{MIB}", note.name, "::/README.TXT"])


def build_base(
    *, arch: str = "amd64", boot: str = "/boot/firmware", cache: Path = Path("build/rehearsal")
) -> Path:
    """Return the base image for `arch` and the FAT's mount point `boot`; build it if need be."""
    if arch not in COMPILERS or boot not in BOOT_MOUNTS:
        raise RehearsalError(f"There is no base image for {arch} with the FAT at {boot}.")
    makers = [Path(__file__).with_name(name) for name in ("image.py", "debian.py", "life.py")]
    sources = [*sorted(GUEST.iterdir()), *makers]
    inputs = [repr((arch, boot, debian.packages(arch))).encode(), *map(read, sources)]
    key = digest(inputs)
    image = cache / f"base-{arch}-{key}.img"
    if image.exists():
        return image
    cache.mkdir(parents=True, exist_ok=True)
    remove_stale(cache, f"base-{arch}-*.img", keep=3)
    with tempfile.TemporaryDirectory(prefix="unfinished-", dir=cache) as name:
        work = Path(name)
        unfinished = work / "card.img"
        make_empty(unfinished, CARD_BYTES)
        disk_id = key[:8]
        partition_disk(
            unfinished,
            [(FAT_START, FAT_BYTES, "c"), (ROOT_START, CARD_BYTES - ROOT_START, "83")],
            f"0x{disk_id}",
        )
        make_fat(unfinished, FAT_START, FAT_BYTES, "bootfs")
        compile_programs(arch, work)
        environment = setup_environment(work, arch, boot, disk_id)
        debian.make_tar(arch, work / "root.tar", GUEST / "setup.sh", environment)
        run_in_uml(
            (GUEST / "card.sh").read_text(),
            disks=[unfinished],
            mem=1024,
            timeout=600 if arch == "amd64" else 3600,
            check=True,
            env=environment,
        )
        unfinished.rename(image)
    return image


def setup_environment(work: Path, arch: str, boot: str, disk_id: str) -> dict[str, str]:
    """What setup.sh and card.sh want to be told; `work` has the compiled programs and the tar."""
    modules = max(MODULES.iterdir())
    foreign = arch != "amd64"
    return {
        "ROOT_TAR": str(work.resolve() / "root.tar"),
        "GUEST": str(GUEST.resolve()),
        "BUILT": str(work.resolve()),
        "MODULES_UML": str(modules),
        "BOOT": boot,
        "DISK_ID": disk_id,
        "ROOT_UUID": f"{disk_id}-7069-4f53-8000-63617264{disk_id[:4]}",
        "FOREIGN": "qemu-aarch64-static" if foreign else "",
        "PYTHON": sys.executable,
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def compile_programs(arch: str, out: Path) -> None:
    """Compile the guest's programs into `out`."""
    compiler = COMPILERS[arch]
    library = out / "libzk_app_utils.so"
    common = [compiler, "-O2", "-Wall", "-Wextra", "-Werror"]
    sources = [str(GUEST / name) for name in ("zkline.c", "zk_app_utils.c")]
    shared = ["-fPIC", "-shared", f"-Wl,-soname,{library.name}"]
    run([*common, *shared, "-o", str(library), *sources])
    run([*common, "-o", str(out / "zktool"), str(GUEST / "zktool.c"), str(library)])
    run([*common, "-o", str(out / "recorder"), str(GUEST / "recorder.c")])


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


def remove_stale(folder: Path, pattern: str, keep: int) -> None:
    """Remove all but the `keep` youngest files of the cache that match `pattern`."""
    found = sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in found[keep:]:
        path.unlink()


def digest(parts: Iterable[bytes]) -> str:
    """A short name for a set of inputs: the same for the same bytes only."""
    total = hashlib.sha256()
    for part in parts:
        total.update(hashlib.sha256(part).digest())
    return total.hexdigest()[:16]


def read(path: Path) -> bytes:
    """The bytes of a file, nothing for a folder (a cache of compiled Python)."""
    return path.read_bytes() if path.is_file() else b""


def run(arguments: Sequence[str], text: str | None = None) -> str:
    """Run a command of the host and return its standard output; raise if it fails."""
    program = shutil.which(arguments[0], path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if program is None:
        raise RehearsalError(
            f"{arguments[0]} is not installed.",
            advice="install the packages listed in .ci/packages-rehearsal.txt",
        )
    done = subprocess.run(
        [program, *arguments[1:]], input=text, text=True, capture_output=True, check=False
    )
    if done.returncode != 0:
        raise RehearsalError(f"{' '.join(arguments)} failed:\n{done.stderr or done.stdout}")
    return done.stdout
