"""The Debian of a card with a foreign processor, installed in an emulated machine.

Emulating single programs is much slower: an installation starts tens of thousands of them.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from crfs.errors import RehearsalError
from crfs.rehearsal import debian
from crfs.rehearsal.layout import MIB, make_empty
from crfs.rehearsal.programs import program, run_limited

SCRIPTS = Path(__file__).parent / "guest/foreign"
MEMORY_MIB = 3072
TAR_BYTES = 2048 * MIB  # sparse
TIMEOUT_S = 3600
COMPLETE = "The system is complete."


def install(arch: str, tar: Path, environment: Mapping[str, str]) -> None:
    """Make a Debian for `arch`, run the guest's setup.sh on it, and write it to `tar`.

    `environment` is what setup.sh wants to be told.
    """
    tar.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="foreign-", dir=tar.parent) as name:
        work = Path(name).resolve()
        _unpack(arch, work, environment)
        make_empty(tar, TAR_BYTES)
        words = [f"{key}={environment[key]}" for key in ("BOOT", "DISK_ID")]
        _emulate(work, tar, " ".join([*words, f"NOW={time.time():.0f}"]))


def _unpack(arch: str, work: Path, environment: Mapping[str, str]) -> None:
    """Make the kernel and the initramfs that install everything."""
    wishes = {
        "WORK": str(work),
        "ARCH": arch,
        "SUITE": debian.SUITE,
        "PACKAGES": ",".join(debian.packages(arch)),
        "LEFT_OUT": "\n".join(debian.NOT_UNPACKED),
    }
    root = [] if os.geteuid() == 0 else ["fakeroot"]
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    debian.run(
        [*root, "sh", str(SCRIPTS / "unpack.sh")],
        {**os.environ, **environment, **wishes, "PATH": path},
    )


def _emulate(work: Path, tar: Path, words: str) -> None:
    """Run the machine to its end; `words` go to the environment of its first process."""
    arguments = [program("qemu-system-aarch64", "qemu-system-arm"), "-machine", "virt"]
    arguments += ["-accel", "tcg,tb-size=512", "-cpu", "cortex-a57", "-m", str(MEMORY_MIB)]
    arguments += ["-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio"]
    arguments += ["-kernel", str(work / "kernel"), "-initrd", str(work / "initramfs")]
    arguments += ["-append", f"console=ttyAMA0 quiet mitigations=off panic=-1 {words}"]
    path = str(tar).replace(",", ",,")
    arguments += ["-drive", f"if=none,id=tar,format=raw,cache=unsafe,file={path}"]
    arguments += ["-device", "virtio-blk-pci,drive=tar"]
    console = work / "console"
    if not run_limited(arguments, console, TIMEOUT_S):
        raise RehearsalError(f"Debian was not installed within {TIMEOUT_S} s.")
    said = console.read_text(errors="replace")
    if COMPLETE not in said:
        raise RehearsalError(f"Debian could not be installed:\n{said[-4000:]}")
