"""User-mode Linux: the kernel, its modules, the words for its disks, and where it runs.

An emulator here is many processes of which one runs at a time, handing on to each other at each
system call of the guest. Between two processors that costs a wake-up from afar; kept to one, the
same guest does its work in a third of the time (Linux 6.1 in a virtual machine: 200 000 calls of
getppid in 12.9 s free and 3.1 s kept).
"""

from __future__ import annotations

import os
import shlex
from collections import Counter
from pathlib import Path

from crfs.errors import RehearsalError
from crfs.rehearsal.programs import program

KERNEL = "linux.uml"
# A folder with another one and its modules, as tools/newer-uml makes it: kernels from 6.16 on need
# no ptrace for a guest's system calls and page faults, and take half the time. Older ones pass
# over the word that has them do so. tools/setup fetches one where Debian 12's does not run.
_FETCHED = Path(__file__).resolve().parents[2] / "build/newer-uml"
_NAMED = os.environ.get("CRFS_UML") or (_FETCHED if _FETCHED.is_dir() else "")
OTHER = os.path.abspath(_NAMED) if _NAMED else ""
SECCOMP = "seccomp=auto"
# What the kernel would measure and make at each start and no guest needs: four in five of the 1.5 s
# that it takes to its first process.
SPARED = ("initcall_blacklist=raid6_select_algo", "pty.legacy_count=0")
MODULES = Path(OTHER or "/", "usr/lib/uml/modules")
VIRTIO_BLOCK = 2  # virtio's number of this kind of device

_MODPROBE = """#!/bin/sh
# The kernel and the tools ask for modules by this door: the host has none of this kernel's.
exec {modprobe} -d {work} "$@"
"""


def uml_kernel() -> list[str]:
    """The first words of a command that starts user-mode Linux, on the processor with the fewest.

    Raises RehearsalError if it is not installed.
    """
    kernel = f"{OTHER}/usr/bin/{KERNEL}" if OTHER else program(KERNEL, "user-mode-linux")
    pinned = [program("taskset", "util-linux"), "--cpu-list", str(_quietest())]
    return [*pinned, kernel, SECCOMP, *SPARED]


def _quietest() -> int:
    """The processor that the fewest emulators are kept to."""
    emulators: dict[int, int] = {}  # the processor of each session
    for name in Path("/proc").glob("[0-9]*/comm"):
        process = int(name.parent.name)
        try:
            if name.read_text().strip() == KERNEL:
                emulators[os.getsid(process)] = min(os.sched_getaffinity(process))
        except OSError:
            continue  # it has ended meanwhile
    taken = Counter(emulators.values())
    return min(os.sched_getaffinity(0), key=lambda processor: taken[processor])


def uml_modules() -> Path:
    """The folder of the kernel's modules, which has the name of its release.

    Raises RehearsalError if it is not installed.
    """
    release = max(MODULES.iterdir(), default=None) if MODULES.is_dir() else None
    if release is None:
        raise RehearsalError(f"There are no modules of user-mode Linux in {MODULES}.")
    return release


def uml_disk(name: str, disk: Path) -> str:
    """User-mode Linux's word for an image as its disk `name`, or for a vhost-user disk's socket.

    A `t` behind the name makes a disk that cannot discard ("ubd" in the kernel's --help).
    """
    if disk.is_socket():
        return f"virtio_uml.device={disk}:{VIRTIO_BLOCK}"
    return f"{name}={disk}"


def furnish_modules(work: Path) -> None:
    """Make `work/modprobe`, which loads the kernel's modules in a guest on the host's files.

    Raises RehearsalError if there is no modprobe, or no module.
    """
    modprobe = program("modprobe", "kmod")
    release = uml_modules()
    modules = work / "lib/modules" / release.name
    modules.parent.mkdir(parents=True)
    modules.symlink_to(release)
    make_program(
        work / "modprobe", _MODPROBE.format(modprobe=modprobe, work=shlex.quote(str(work)))
    )


def make_program(path: Path, text: str) -> None:
    """Write a script that everybody may run."""
    path.write_text(text)
    path.chmod(0o755)
