"""What the checks look at. Each fact is read when it is first asked for, and kept.

Files are read below `root`, so that the trees of real boards can be looked at in tests.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from crfs import bootfiles, keys, probe, runner
from crfs.errors import CommandError, LayoutError
from crfs.fstab import CRYPTTAB, FSTAB, Line, parse_crypttab, parse_fstab
from crfs.model import UNIT
from crfs.probe import Block, Mount, Swap

ROOT = Path("/")
UPGRADES = "unattended-upgrades.service"
# More than any of the files looked at has on a sane system.
_MOST_BYTES = 1 << 20
# Its questions take a second; a module that does not answer is given up by its library after 5 s.
_HSM_TIMEOUT_S = 15


T = TypeVar("T")


@dataclass(frozen=True)
class Unit:
    """A systemd unit in systemd's own words, "" where it knows none."""

    loaded: str
    active: str
    enabled: str


class fact(Generic[T]):
    """A property that is read once. What was raised is raised again: a command that hangs or is
    missing is not tried by each check anew."""

    def __init__(self, look: Callable[[Any], T]) -> None:
        self._look = look

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, machine: Machine | None, owner: type) -> T:
        if machine is None:
            return cast(T, self)
        if self._name not in machine.seen:
            try:
                machine.seen[self._name] = self._look(machine), None
            except Exception as problem:
                machine.seen[self._name] = None, problem
        value, raised = machine.seen[self._name]
        if raised is not None:
            raise raised
        return cast(T, value)


class Machine:
    """The machine that crfs runs on, or the part of one that a test has laid out below `root`."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or ROOT
        self.seen: dict[str, tuple[Any, Exception | None]] = {}

    def read_ahead(self) -> None:
        """Read at one time what takes long each: the HSM, the kernel's log, the disks."""
        with ThreadPoolExecutor() as pool:
            # What these raise is kept, and raised again for whoever asks.
            for look in (self._read_hsm, lambda: self.kernel_log, lambda: self.disks):
                pool.submit(look)

    def _read_hsm(self) -> None:
        """Nobody asks it through a daemon that is not there."""
        if self.units[keys.DAEMON].active == "active":
            self.hsm  # noqa: B018 (reading it keeps it)

    # --- files ------------------------------------------------------------------------------------

    def path(self, name: str) -> Path:
        return self.root / name.lstrip("/")

    def read(self, name: str) -> str | None:
        """A text without what the kernel ends it with; None if the file is not there."""
        try:
            with self.path(name).open("rb") as file:
                return file.read(_MOST_BYTES).decode(errors="replace").rstrip("\0\n ")
        except (FileNotFoundError, NotADirectoryError):
            return None

    def number(self, name: str, base: int = 10) -> int | None:
        """A file that holds one number; None if it is not there. Raises ValueError."""
        text = self.read(name)
        return None if text is None else int(text, base)

    # --- board and kernel -------------------------------------------------------------------------

    @fact
    def model(self) -> str:
        """The board in the words of its device tree, "" where it has none."""
        return probe.printable(self.read("/proc/device-tree/model") or "")

    @fact
    def kernel(self) -> str:
        return probe.kernel_release()

    @fact
    def kernel_is_64_bit(self) -> bool:
        return platform.machine() in ("aarch64", "x86_64")

    @fact
    def cmdline(self) -> str:
        return probe.kernel_cmdline()

    @fact
    def kernel_log(self) -> str:
        """What the kernel said in this boot; "" where it cannot be read."""
        return probe.kernel_log()

    @fact
    def now(self) -> float:
        return time.time()

    # --- boot partition ---------------------------------------------------------------------------

    @fact
    def boot_folder(self) -> Path:
        """The mount point of the boot partition. Raises LayoutError if none is mounted."""
        return probe.boot_mount()

    @fact
    def boot_mount(self) -> Mount:
        """How the boot partition is mounted. Raises LayoutError if it is not."""
        mount = probe.mount_of(str(self.boot_folder))
        if mount is None:
            raise LayoutError("The boot partition was unmounted a moment ago.", advice="try again")
        return mount

    @fact
    def config(self) -> bytes:
        """config.txt without crfs's block. Raises LayoutError if it is not mounted."""
        with (self.boot_folder / "config.txt").open("rb") as file:
            return bootfiles.without_block(file.read(_MOST_BYTES))

    @property
    def cmdline_name(self) -> str:
        """The file with the kernel's command line, beside config.txt.

        Where sections or included files name several, it need not be the one that this board
        reads; at the end of a migration it is, because crfs's block names it.
        """
        return bootfiles.setting(self.config, "cmdline") or "cmdline.txt"

    @fact
    def boot_free(self) -> int:
        """Bytes that are free on the boot partition."""
        facts = os.statvfs(self.boot_folder)
        return facts.f_bavail * facts.f_frsize

    # --- disks ------------------------------------------------------------------------------------

    @fact
    def disks(self) -> tuple[Block, ...]:
        return tuple(probe.disks())

    @fact
    def root_device(self) -> str:
        return probe.root_source()

    @fact
    def root_mount(self) -> Mount:
        return probe.mount_of("/") or Mount("/", "", "", ())

    @fact
    def swaps(self) -> tuple[Swap, ...]:
        return tuple(probe.swaps())

    @fact
    def fstab(self) -> tuple[Line, ...]:
        return parse_fstab(self.read(FSTAB) or "")

    @fact
    def crypttab(self) -> tuple[Line, ...]:
        return parse_crypttab(self.read(CRYPTTAB) or "")

    def device(self, name: str) -> str:
        """What the links to a device lead to, below `root`."""
        return os.path.realpath(self.path(name))

    def root_block(self) -> tuple[Block, Block] | None:
        """The disk that / is on, and the part of it that / is."""
        for disk in self.disks:
            for block in disk.walk():
                # lsblk shows mappings by their links' names.
                if self.root_device in (block.path, os.path.realpath(block.path)):
                    return disk, block
        return None

    # --- services and HSM -------------------------------------------------------------------------

    @fact
    def units(self) -> dict[str, Unit]:
        """The services that checks ask for, all in one question."""
        names = (*keys.SERVICES, UNIT, UPGRADES)
        properties = "Id,LoadState,ActiveState,UnitFileState"
        text = runner.query(["systemctl", "show", f"--property={properties}", *names], timeout=10)
        found = {}
        for block in text.strip().split("\n\n"):
            facts = dict(re.findall(r"(?m)^(\w+)=(.*)$", block))
            found[facts.get("Id", "")] = Unit(
                facts.get("LoadState", ""),
                facts.get("ActiveState", ""),
                facts.get("UnitFileState", ""),
            )
        return {name: found.get(name, Unit("", "", "")) for name in names}

    @fact
    def hsm(self) -> dict[str, Any]:
        """What the HSM tells through Zymbit's client; see zymbit.report.

        It is asked by a process of its own: the client is foreign code that may hang or crash.
        """
        argv = [sys.executable, "-P", "-m", "crfs.zymbit"]
        try:
            told = json.loads(runner.query(argv, timeout=_HSM_TIMEOUT_S))
        except (CommandError, ValueError) as problem:
            return {"installed": True, "said": str(problem).split("\n", 1)[0]}
        return told if isinstance(told, dict) else {"installed": True, "said": "nothing"}
