"""The cheap Pi as its harness sees it: power, firmware, lines, card, stick and HSM.

    with World(folder) as world:
        world.power_on()
        event = world.wait(60)   # what the boot came to

The harness is the firmware: it reads the FAT out of the card's image at each power-on. A reboot
ends the emulator.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import re
import selectors
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crfs.errors import RehearsalError
from crfs.journal import SLOTS, Entry, decode
from crfs.model import Record
from crfs.rehearsal import firmware
from crfs.rehearsal.cuts.card import GUEST, PROJECT
from crfs.rehearsal.cuts.storage import Disk, Storage, apply, read_log, survivors
from crfs.rehearsal.cuts.trace import Fault
from crfs.rehearsal.layout import copy_sparse
from crfs.rehearsal.module import HsmProcess
from crfs.rehearsal.programs import end_process_group
from crfs.rehearsal.uml import furnish_modules, uml_kernel

MODEL, DEFAULT_KERNEL = "pi5", "kernel_2712.img"
INITRAMFS = "crfs-initramfs"
MEMORY_MIB = 256
NO_FAULT = Fault()

# How a boot, or the waiting for it, ends.
CUT, REBOOT, POWEROFF, CRASH = "cut", "reboot", "poweroff", "crash"
IDLE = "idle"  # the worker has ended, or there was nothing for it to do; the power is on
WAITING = "waiting"  # the time is up


class Dark(RehearsalError):
    """The firmware finds nothing to boot: a Pi would show nothing at all."""


@dataclass
class Boot:
    """One boot: what the firmware chose, and what came of it.

    `effects` has each effect's key and its seconds, `points` the commands of the initramfs
    scripts; `worker` the exit codes of `crfs run`, `user` those of what the user typed. `files` and
    `records` are what a judging boot has listed.
    """

    config: str
    cmdline: str
    ended: str = ""
    argument: str = ""
    panic: str = ""
    up: bool = False
    hit: bool = False  # what was to happen to this boot has happened
    started: int = 0  # how often the worker was started
    typed: int = 0  # commands of the user
    rebooting: bool = False
    effects: list[tuple[str, float]] = field(default_factory=list)
    points: list[str] = field(default_factory=list)
    worker: list[int] = field(default_factory=list)
    user: list[int] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    records: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def root(self) -> str:
        """The root that the command line names."""
        named = re.findall(r"(?:^| )root=(\S+)", self.cmdline)
        return named[-1] if named else ""


class World:
    """One cheap Pi. `folder` holds `card.img`, `stick.img` and the HSM's state."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.card = folder / "card.img"
        self.stick: Path | None = folder / "stick.img"
        self.second_stick: Path | None = None
        self.swapped = False  # card and stick change their device names
        self.hsm = HsmProcess(folder)
        self.trial_next = False
        self.acknowledged = 0
        self.boots: list[Boot] = []
        self._work = Path(tempfile.mkdtemp(prefix="crfs-cut-"))
        self._work.chmod(0o755)
        self._process: subprocess.Popen[bytes] | None = None
        # Which disks fail, and what becomes of what was not flushed when the power goes.
        self.errors: dict[str, list[dict[str, Any]]] = {}
        self.unplugged = False  # the stick can be pulled, and is
        self.cache = ""
        self.chance = random.Random(0)  # noqa: S311 - to be the same again is wanted
        self._storage: Storage | None = None
        self._lines: dict[socket.socket, bytes] = {}
        self._orders: socket.socket | None = None
        self._began = 0.0
        self._furnish()

    def __enter__(self) -> World:
        _LIVING.add(self)
        self.hsm.start()
        return self

    def __exit__(self, *_: object) -> None:
        _LIVING.discard(self)
        self.power_off()
        self.hsm.stop()
        shutil.rmtree(self._work, ignore_errors=True)

    def _furnish(self) -> None:
        furnish_modules(self._work)
        shutil.copy(GUEST / "init", self._work / "init")
        (self._work / "project").symlink_to(PROJECT)

    # --- power --------------------------------------------------------------------------------

    @property
    def boot(self) -> Boot:
        """The latest boot."""
        return self.boots[-1]

    @property
    def is_on(self) -> bool:
        """Whether the power is on."""
        return self._process is not None

    @property
    def age(self) -> float:
        """Seconds since power-on."""
        return time.monotonic() - self._began

    def power_on(self, fault: Fault = NO_FAULT, files: Mapping[str, str] | None = None) -> Boot:
        """Let the firmware choose, and start that. `files` go to the work folder of `init`.

        Raises Dark where the firmware finds nothing to boot.
        """
        assert not self.is_on
        trial, self.trial_next = self.trial_next, False
        try:
            fat = firmware.BootPartition(self.card)
            chosen = firmware.choose(fat, MODEL, DEFAULT_KERNEL, trial=trial)
            _, initramfs = firmware.extract(fat, chosen, self._work)
        except RehearsalError as error:
            raise Dark(error.what) from None
        if initramfs is not None and chosen.initramfs != INITRAMFS:
            initramfs.unlink()
        elif initramfs is None:
            (self._work / "initramfs").unlink(missing_ok=True)
        tokens = ["zksim=ttyS1", "fwline=ttyS2"]
        cmdline = firmware.final_cmdline(chosen, "ttyS0", tokens)
        wanted = {
            "cmdline": cmdline + "\n",
            "fault.json": json.dumps(dataclasses.asdict(fault)),
            **(files or {}),
        }
        for name in ("boot-cut", "clock", "fill", "judge"):
            (self._work / name).unlink(missing_ok=True)
        for name, text in wanted.items():
            (self._work / name).write_text(text)
        self.boots.append(Boot(chosen.config, cmdline))
        with self.console_log.open("a") as log:
            log.write(f"\n==== boot {len(self.boots)}: {chosen.config}: {cmdline}\n")
        self._start()
        return self.boot

    @property
    def console_log(self) -> Path:
        """Everything that was said on the console, all boots."""
        return self.folder / "console.log"

    def _start(self) -> None:
        wires: list[socket.socket] = []
        arguments = [*uml_kernel(), f"mem={MEMORY_MIB}M", *self._disks()]
        arguments += ["root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "quiet"]
        arguments += [f"init={self._work}/init", f"uml_dir={self._work}/", "umid=pi", "noreboot"]
        arguments += ["con=null", "con0=null,fd:1", "ssl=null", "panic=1"]
        line = socket.socket(socket.AF_UNIX)
        line.connect(str(self.hsm.line))
        wires.append(line)
        arguments.append(f"ssl1=fd:{line.fileno()},fd:{line.fileno()}")
        for name in ("ssl2", "ssl3"):
            near, far = socket.socketpair()
            near.setblocking(False)
            self._lines[near] = b""
            self._orders = near
            wires.append(far)
            arguments.append(f"{name}=fd:{far.fileno()},fd:{far.fileno()}")
        with self.console_log.open("ab") as log:
            self._process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[wire.fileno() for wire in wires],
                start_new_session=True,
            )
        for wire in wires:
            wire.close()
        self._began = time.monotonic()

    def _disks(self) -> Sequence[str]:
        """The card and the stick, in the order of their names."""
        disks = [one for one in (self.card, self.stick, self.second_stick) if one]
        if self.swapped:
            disks.reverse()
        if not self.errors and not self.cache and not self.unplugged:
            return [f"ubd{chr(ord('a') + number)}={disk}" for number, disk in enumerate(disks)]
        watched = []
        for disk in disks:
            log = disk.with_suffix(".log") if self.cache else None
            if log:
                copy_sparse(disk, disk.with_suffix(".before"))
            watched.append(Disk(disk, log, self.errors.get(disk.stem, [])))
        self._storage = Storage(self._work, watched)
        return [f"virtio_uml.device={socket}:2" for socket in self._storage.sockets]

    def _lose_cache(self) -> None:
        """The power is gone: what no flush has followed is lost, as chance will have it."""
        for disk in [one for one in (self.card, self.stick) if one]:
            log, before = disk.with_suffix(".log"), disk.with_suffix(".before")
            if self.boot.ended == CUT:
                apply(before, survivors(read_log(log), self.cache, self.chance))
                before.replace(disk)
            before.unlink(missing_ok=True)
            log.unlink()

    def power_off(self) -> None:
        """Pull the plug."""
        if self._process is None:
            return
        end_process_group(self._process)
        self._process = None
        self._read_all()
        for line in self._lines:
            line.close()
        self._lines.clear()
        boot = self.boot
        boot.seconds = round(self.age, 2)
        boot.ended = boot.ended or CUT
        if self._storage is not None:
            self._storage.stop()
            self._storage = None
            if self.cache:
                self._lose_cache()
        self.trial_next = boot.ended == REBOOT and boot.argument == firmware.TRYBOOT_ARGUMENT

    # --- what happens -------------------------------------------------------------------------

    def wait(self, limit: float, *, cut_at: float | None = None) -> str:
        """Until the boot ends or its worker does, at most `limit` seconds from power-on.

        `cut_at` seconds after power-on the plug is pulled. Returns one of the words above; after
        IDLE and WAITING the power is still on.
        """
        assert self._process is not None
        boot = self.boot
        seen = len(boot.worker) + len(boot.user)
        with selectors.DefaultSelector() as selector:
            for line in self._lines:
                selector.register(line, selectors.EVENT_READ)
            while True:
                now = self.age
                if cut_at is not None and now >= cut_at:
                    self.boot.hit = True
                    self.power_off()
                    return self.boot.ended
                if now >= limit:
                    return WAITING
                until = limit if cut_at is None else min(limit, cut_at)
                for key, _ in selector.select(min(until - now, 1.0)):
                    assert isinstance(key.fileobj, socket.socket)
                    if self._read(key.fileobj):
                        self.power_off()
                        return self.boot.ended
                    if not self._lines[key.fileobj] and self._process.poll() is not None:
                        return self._ended()
                if self._process.poll() is not None:
                    return self._ended()
                # Nothing runs any more, and there is news.
                at_rest = boot.started <= len(boot.worker) and boot.typed == len(boot.user)
                if at_rest and len(boot.worker) + len(boot.user) > seen and not boot.rebooting:
                    return IDLE

    def _ended(self) -> str:
        self._read_all()
        self.boot.ended = self.boot.ended or CRASH
        self.power_off()
        return self.boot.ended

    def _read_all(self) -> None:
        for line in self._lines:
            self._read(line)

    def _read(self, line: socket.socket) -> bool:
        """Take in what a line has; whether the guest asks for the plug to be pulled."""
        with contextlib.suppress(OSError):
            while data := line.recv(1 << 16):
                *whole, self._lines[line] = (self._lines[line] + data).split(b"\n")
                for one in whole:
                    if self._hear(one.decode(errors="replace").strip()):
                        return True
        return False

    def _hear(self, text: str) -> bool:
        boot = self.boot
        word, _, rest = text.partition(" ")
        match word:
            case "R" if rest.isdigit():
                self.acknowledged = max(self.acknowledged, int(rest))
            case "EFFECT":
                seconds, _, key = rest.partition(" ")
                boot.effects.append((key, float(seconds)))
            case "POINT":
                boot.points.append(rest)
            case "END":
                boot.ended, _, boot.argument = rest.partition(" ")
            case "UP":
                boot.up = True
            case "HIT":
                boot.hit = True
            case "START":
                boot.started += 1
            case "REBOOTING":
                boot.rebooting = True
            case "WORKER":
                boot.worker.append(int(rest))
            case "NOWORK":
                boot.started += 1
                boot.worker.append(0)
            case "USER":
                boot.user.append(int(rest))
            case "FILE":
                boot.files.append(rest)
            case "RECORD":
                boot.records.append(rest)
            case "PANIC":
                boot.panic = rest
        return word == "CUT"

    # --- what the harness does ----------------------------------------------------------------

    def order(self, text: str) -> None:
        """Tell `init`: "crfs resume" (the user types it), "poweroff ", "kill TERM" ..."""
        assert self._orders is not None
        self.boot.typed += text.startswith("crfs ")
        self._orders.sendall(text.encode() + b"\n")

    def shut_down(self, limit: float = 60) -> None:
        """An orderly end; the plug if that takes too long."""
        self.order("poweroff ")
        self.boot.rebooting = True
        if self.wait(self.age + limit) == WAITING:
            self.power_off()

    def journal(self) -> Record | None:
        """The newest record on the card, as it is on the medium now."""
        fat = firmware.BootPartition(self.card)
        entries: list[Entry] = []
        for name in SLOTS:
            slot = fat.read(f"crfs/{name}")
            if slot and (entry := decode(slot)):
                entries.append(entry)
        return max(entries, key=lambda one: one.sequence).record if entries else None

    def has_journal(self) -> bool:
        """Whether a slot is there, intact or not."""
        fat = firmware.BootPartition(self.card)
        return any(fat.read(f"crfs/{name}") is not None for name in SLOTS)


_LIVING: set[World] = set()


def end_all() -> None:
    """End everything that was started: for a harness that is told to end itself."""
    for world in list(_LIVING):
        world.__exit__()
