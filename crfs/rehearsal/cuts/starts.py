"""Starting points: card, stick and HSM as they are before each phase, and what each phase does.

Made by one clean journey a run of the bench, so that a cut in phase 2 need not repeat phase 1.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from crfs.errors import RehearsalError
from crfs.rehearsal.base import digest, read
from crfs.rehearsal.cuts.card import PROJECT, new_card, new_stick
from crfs.rehearsal.cuts.faults import PHASES
from crfs.rehearsal.cuts.trace import Fault
from crfs.rehearsal.cuts.world import CUT, IDLE, POWEROFF, REBOOT, World
from crfs.rehearsal.layout import copy_sparse
from crfs.rehearsal.uml import uml_modules

BOOT_S = 300.0
COMMAND = "crfs encrypt --yes --disk /dev/ubda --usb /dev/ubdb"
_KEPT = ("card.img", "stick.img", "hsm.json")


@dataclass(frozen=True)
class Start:
    """One starting point.

    `effects` are those of the undisturbed phase, with their seconds, `points` the commands of the
    initramfs scripts in its boot; `seconds` is the whole boot's.
    """

    folder: Path
    acknowledged: int
    trial: bool
    effects: tuple[tuple[str, float], ...]
    points: tuple[str, ...]
    seconds: float

    def copy_to(self, folder: Path) -> None:
        """Card, stick and HSM of this starting point, to be spoilt."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in _KEPT:
            copy_sparse(self.folder / name, folder / name)


@dataclass(frozen=True)
class Starts:
    """The starting points by phase, and the list of files of the plain root."""

    points: dict[int, Start]
    plain: tuple[str, ...]


def code() -> str:
    """A digest of everything that the results depend on: crfs, and the kernel it runs on."""
    files = [
        read(path)
        for folder in (PROJECT / "crfs", PROJECT / "initramfs-hooks")
        for path in sorted(folder.rglob("*"))
        if path.suffix != ".pyc"
    ]
    return digest([uml_modules().name.encode(), *files])


def prepare(cache: Path, scratch: Path, *, tryboot: bool) -> Starts:
    """The starting points; made if this code has none in `cache`."""
    # The guests run the sources as they lie here, many times, and cannot keep what they compiled.
    subprocess.run(["/usr/bin/python3", "-m", "compileall", "-q", PROJECT / "crfs"], check=True)
    folder = cache / f"starts-{'tryboot' if tryboot else 'oneshot'}-{code()}"
    if not (folder / "starts.json").exists():
        for old in cache.glob(f"starts-{'tryboot' if tryboot else 'oneshot'}-*"):
            shutil.rmtree(old)
        _journey(folder, cache, scratch, tryboot=tryboot)
    facts = json.loads((folder / "starts.json").read_text())
    points = {
        phase: Start(
            folder / str(phase),
            facts[str(phase)]["acknowledged"],
            facts[str(phase)]["trial"],
            tuple((key, seconds) for key, seconds in facts[str(phase)]["effects"]),
            tuple(facts[str(phase)]["points"]),
            facts[str(phase)]["seconds"],
        )
        for phase in PHASES
    }
    return Starts(points, tuple((folder / "plain.jsonl").read_text().splitlines()))


def _journey(folder: Path, cache: Path, scratch: Path, *, tryboot: bool) -> None:
    facts: dict[int, dict[str, object]] = {}
    with World(Path(tempfile.mkdtemp(dir=scratch))) as world:
        new_card(world.card, cache, tryboot=tryboot)
        assert world.stick is not None
        new_stick(world.stick)
        world.stick, stick = None, world.stick
        world.power_on(files={"judge": "1"})
        _expect(world, POWEROFF)
        folder.mkdir(parents=True)
        (folder / "plain.jsonl").write_text("\n".join(world.boot.files) + "\n")
        world.stick = stick
        # The user types the command; the power goes before the worker has done anything.
        world.power_on(Fault("between|journal|1", "before"))
        _expect(world, IDLE)
        world.order(COMMAND)
        _expect(world, CUT)
        for phase in PHASES:
            at = folder / str(phase)
            at.mkdir(parents=True)
            for name in _KEPT:
                copy_sparse(world.folder / name, at / name)
            facts[phase] = {"acknowledged": world.acknowledged, "trial": world.trial_next}
            world.power_on()
            _expect(world, REBOOT if phase != PHASES[-1] else IDLE)
            if world.is_on:
                world.shut_down()
            facts[phase] |= {
                "effects": world.boot.effects,
                "points": world.boot.points,
                "seconds": world.boot.seconds,
            }
        if world.has_journal():
            raise RehearsalError(f"The clean journey did not end; see {world.console_log}.")
        shutil.rmtree(world.folder)
    (folder / "starts.json").write_text(json.dumps(facts))


def _expect(world: World, event: str) -> None:
    got = world.wait(BOOT_S)
    if got != event:
        raise RehearsalError(
            f"The clean journey: {got} where {event} should be; see {world.console_log}."
        )
