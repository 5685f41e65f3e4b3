"""The base image of a card: made once, in minutes, kept under a hash of all that goes into it."""

from __future__ import annotations

import fcntl
import hashlib
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from crfs.errors import RehearsalError
from crfs.rehearsal import debian, foreign
from crfs.rehearsal.layout import MIB, make_empty, make_fat, partition_disk, run
from crfs.rehearsal.uml import uml_modules
from crfs.rehearsal.workbench import run_in_uml

GUEST = Path(__file__).parent / "guest"
CARD_BYTES = 1024 * MIB  # the emulated SD card wants a power of two
FAT_START = 4 * MIB
FAT_BYTES = 128 * MIB
ROOT_START = FAT_START + FAT_BYTES
COMPILERS = {"amd64": "gcc", "arm64": "aarch64-linux-gnu-gcc"}
BOOT_MOUNTS = ("/boot/firmware", "/boot")
NOT_IN_BASE = ("graft.sh",)
CACHE = Path("build/rehearsal")


def build_base(*, arch: str = "amd64", boot: str = "/boot/firmware", cache: Path = CACHE) -> Path:
    """Return the base image for `arch` and the FAT's mount point `boot`; build it if need be."""
    if arch not in COMPILERS or boot not in BOOT_MOUNTS:
        raise RehearsalError(f"There is no base image for {arch} with the FAT at {boot}.")
    makers = [
        Path(__file__).with_name(name) for name in ("base.py", "debian.py", "layout.py", "life.py")
    ]
    parts = [path for path in sorted(GUEST.iterdir()) if path.name not in NOT_IN_BASE]
    sources = [*parts, *makers]
    if arch != debian.NATIVE:
        sources += [Path(foreign.__file__), *sorted(foreign.SCRIPTS.iterdir())]
    packages = debian.packages(arch)
    inputs = [repr((arch, boot, packages, uml_modules().name)).encode(), *map(read, sources)]
    key = digest(inputs)
    image = cache / f"base-{arch}-{key}.img"
    if image.exists():
        return image
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # whoever comes second finds it built
        if not image.exists():
            remove_stale(cache, f"base-{arch}-*.img", keep=3)
            _build(image, arch, boot, key[:8])
    return image


def _build(image: Path, arch: str, boot: str, disk_id: str) -> None:
    with tempfile.TemporaryDirectory(prefix="unfinished-", dir=image.parent) as name:
        work = Path(name)
        unfinished = work / "card.img"
        make_empty(unfinished, CARD_BYTES)
        partition_disk(
            unfinished,
            [(FAT_START, FAT_BYTES, "c"), (ROOT_START, CARD_BYTES - ROOT_START, "83")],
            f"0x{disk_id}",
        )
        make_fat(unfinished, FAT_START, FAT_BYTES, "bootfs")
        compile_programs(arch, work)
        environment = setup_environment(work, boot, disk_id)
        tar = work / "root.tar"
        if arch == debian.NATIVE:
            debian.install(arch, tar, GUEST / "setup.sh", environment)
        else:
            foreign.install(arch, tar, environment)
        run_in_uml(
            (GUEST / "card.sh").read_text(),
            disks=[unfinished],
            mem=1024,
            timeout=600,
            check=True,
            env=environment,
        )
        unfinished.rename(image)


def setup_environment(work: Path, boot: str, disk_id: str) -> dict[str, str]:
    """What setup.sh and card.sh want to be told; `work` has the compiled programs and the tar."""
    return {
        "ROOT_TAR": str(work.resolve() / "root.tar"),
        "GUEST": str(GUEST.resolve()),
        "BUILT": str(work.resolve()),
        "MODULES_UML": str(uml_modules()),
        "BOOT": boot,
        "DISK_ID": disk_id,
        "ROOT_UUID": f"{disk_id}-7069-4f53-8000-63617264{disk_id[:4]}",
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
