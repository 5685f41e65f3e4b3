"""The cheap Pi's card and stick, built once in the workbench and then only copied."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from crfs.rehearsal.base import COMPILERS, digest, read
from crfs.rehearsal.base import GUEST as PI_GUEST
from crfs.rehearsal.debian import NATIVE
from crfs.rehearsal.layout import (
    MIB,
    copy_sparse,
    make_empty,
    make_fat,
    partition_disk,
    run,
    write_files,
)
from crfs.rehearsal.workbench import run_in_uml

GUEST = Path(__file__).parent / "guest"
PYTHON = "/usr/bin/python3"  # Debian's, which has what crfs needs
DISK_ID = "c0ffee01"
FAT_START = 4 * MIB
FAT_BYTES = 40 * MIB
ROOT_START = FAT_START + FAT_BYTES
CARD_BYTES = 208 * MIB
STICK_BYTES = 192 * MIB
PROJECT = Path(__file__).resolve().parents[3]


def build_card(cache: Path) -> Path:
    """The plain card, as it was before anybody thought of crfs; built if it is not in `cache`."""
    sources = [
        *(GUEST / name for name in ("card.sh", "mkinitramfs", "hook-functions")),
        Path(__file__),
        Path(__file__).with_name("contents.py"),
        *sorted(PI_GUEST.glob("*.[ch]")),
    ]
    image = cache / f"card-{digest(map(read, sources))}.img"
    if image.exists():
        return image
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="unfinished-", dir=cache) as name:
        work = Path(name).resolve()
        card = work / "card.img"
        make_empty(card, CARD_BYTES)
        root_size = CARD_BYTES - ROOT_START
        parts = [(FAT_START, FAT_BYTES, "c"), (ROOT_START, root_size, "83")]
        partition_disk(card, parts, f"0x{DISK_ID}")
        make_fat(card, FAT_START, FAT_BYTES, "bootfs")
        _compile(work)
        run_in_uml(
            (GUEST / "card.sh").read_text(),
            disks=[card],
            check=True,
            cwd=PROJECT,
            env={
                "DISK_ID": DISK_ID,
                "GUEST": str(GUEST.resolve()),
                "BUILT": str(work),
                "CONFIG": str(PI_GUEST.resolve() / "config.txt"),
                "PYTHON": PYTHON,
                "PYTHONPATH": str(PROJECT),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
        )
        card.rename(image)
    return image


def _compile(out: Path) -> None:
    """The HSM's tools and the recorder, without libraries: the initramfs has none."""
    common = [COMPILERS[NATIVE], "-O2", "-static", "-s"]
    tools = [str(PI_GUEST / name) for name in ("zktool.c", "zk_app_utils.c", "zkline.c")]
    run([*common, "-o", str(out / "zktool"), *tools])
    run([*common, "-o", str(out / "recorder"), str(PI_GUEST / "recorder.c")])


def new_card(card: Path, cache: Path, *, tryboot: bool) -> None:
    """A copy of the plain card, of a Pi with or without one-shot boot."""
    copy_sparse(build_card(cache), card)
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as conf:
        conf.write(f"[boot]\ntryboot = {'yes' if tryboot else 'no'}\n")
        conf.flush()
        os.chmod(conf.name, 0o644)
        write_files(card, {"/etc/crfs.conf": Path(conf.name)})


def new_stick(stick: Path, size: int = STICK_BYTES) -> None:
    """A blank stick."""
    make_empty(stick, size)
