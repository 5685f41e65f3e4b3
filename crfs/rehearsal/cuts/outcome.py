"""After a fault: what a user without knowledge does, and what has become of the Pi in the end.

The user powers on and waits; where crfs has stopped, he does what its message says.
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crfs.model import Halt
from crfs.rehearsal import firmware
from crfs.rehearsal.cuts.card import FAT_START, new_stick
from crfs.rehearsal.cuts.faults import NOTHING, PHASES, Case, Disturbance
from crfs.rehearsal.cuts.starts import Starts
from crfs.rehearsal.cuts.world import CRASH, IDLE, POWEROFF, WAITING, Dark, World
from crfs.rehearsal.lawful import APPLICATION, FOLDER_TIMES, INITRAMFS, LAWFUL
from crfs.rehearsal.layout import MIB
from crfs.rehearsal.life import MARKERS
from crfs.rehearsal.manifest import Lawful, compare, load
from crfs.rehearsal.rawsearch import find_in_image

MAX_BOOTS = 12
BOOT_S = 300.0  # by the host's clock; the machine may be busy
# What a message names, in its order.
_WAYS = re.compile("crfs (?:resume(?: --restore-again)?|rollback)")

COMPLETED = "completed"
ROLLED_BACK = "rolled_back"
ADVICE = "stopped_with_advice"
UNBOOTABLE = "unbootable"
LOST_FILES = "lost_files"
LOST_RECORDS = "lost_records"
LEAKED = "leaked"
NEEDS_HUMAN = "needs_human"
OUTCOMES = (
    *(COMPLETED, ROLLED_BACK, ADVICE),
    *(UNBOOTABLE, LOST_FILES, LOST_RECORDS, LEAKED, NEEDS_HUMAN),
)
GOOD = OUTCOMES[:3]

# A system without these folders gets them.
NEW_FOLDERS = tuple(
    Lawful(f"/etc/{name}", INITRAMFS)
    for name in (
        *("initramfs", "initramfs/post-update.d", "kernel", "kernel/postinst.d"),
        *("initramfs-tools/scripts/local-top", "initramfs-tools/scripts/local-bottom"),
    )
)
ENCRYPTED_LAWFUL = (*LAWFUL, *NEW_FOLDERS)
PLAIN_LAWFUL = (
    Lawful("/var/lib/recorder/records", APPLICATION),
    Lawful("/var/lib/crfs", "crfs's own folder had the plan of the migration", FOLDER_TIMES),
)


@dataclass
class Outcome:
    """What came of one case. `halts` are the messages with which crfs stopped on the way."""

    outcome: str = ""
    detail: str = ""
    boots: list[str] = field(default_factory=list)
    halts: list[dict[str, Any]] = field(default_factory=list)
    hit: bool = False  # the fault has happened
    acknowledged: int = 0
    found: int = 0  # records on the root at the end


class Life:
    """One Pi through one case."""

    def __init__(self, world: World, case: Case, plain: Sequence[str]) -> None:
        self.world = world
        world.chance = random.Random(f"{case.seed} {case.id}")  # noqa: S311
        self.case = case
        self.plain = plain
        self.result = Outcome()
        self._own_stick = world.folder / "stick.img"
        self._healthy = world.hsm.state_file.read_bytes()
        self._sick = case.cure == "hsm"
        self._followed: list[str] = []  # the messages of which the advice was taken

    def run(self) -> Outcome:
        """Everything, up to the judgement."""
        result = self.result
        try:
            self._live()
            self._judge()
            self._require_cause()
        except _Ended as ended:
            result.outcome, result.detail = ended.outcome, ended.detail
        result.acknowledged = self.world.acknowledged
        result.boots = [self._line(number) for number in range(len(self.world.boots))]
        return result

    def _line(self, number: int) -> str:
        boot = self.world.boots[number]
        last = boot.effects[-1][0] if boot.effects else "-"
        panic = f", panic: {boot.panic}" if boot.panic else ""
        return f"{boot.config} {boot.root}: {boot.ended} {boot.argument} after {last}{panic}"

    # --- the user -----------------------------------------------------------------------------

    def _live(self) -> None:
        """Power on and wait, until there is nothing left to do."""
        dark = 0
        for number in range(MAX_BOOTS + len(self.case.boots)):
            trouble = self.case.boots[number] if number < len(self.case.boots) else NOTHING
            event = self._one_boot(trouble)
            self._look_at_stick()
            if self._sick and [boot.up for boot in self.world.boots[-3:]] == [False] * 3:
                # Nothing comes up, and the LED is dark: whoever looks at it sees to the HSM.
                self._heal_hsm()
            if event == "dark":
                dark += 1
                if dark == 3:
                    raise _Ended(UNBOOTABLE, "the firmware finds nothing to boot")
            elif event == "done":
                return
        boots = self.world.boots
        if all(boot.ended == CRASH or not boot.up for boot in boots[-4:]):
            raise _Ended(UNBOOTABLE, f"no boot gets through: {boots[-1].panic}")
        raise _Ended(NEEDS_HUMAN, f"not done after {len(boots)} boots")

    def _one_boot(self, trouble: Disturbance) -> str:
        """One boot: "done" (no migration any more), "again" (power on once more) or "dark"."""
        world = self.world
        self._set_up(trouble)
        try:
            world.power_on(trouble.fault, trouble.files)
        except Dark:
            return "dark"
        try:
            event = self._watch(trouble)
            aimed = trouble.key or trouble.after is not None or trouble.point
            self.result.hit |= world.boot.hit if aimed else trouble is not NOTHING
            turns = 0
            while event == IDLE:
                if not world.has_journal():
                    return "done"
                turns += 1
                if turns > 3:
                    raise _Ended(NEEDS_HUMAN, "crfs stops again and again")
                if not self._take_advice():
                    return "again"
                event = world.wait(world.age + BOOT_S)
            return "again"
        finally:
            if world.is_on:
                # A user who is content, or who has waited long enough.
                if event == IDLE:
                    world.shut_down()
                world.power_off()

    def _watch(self, trouble: Disturbance) -> str:
        """Wait; type what is to be typed."""
        world = self.world
        if trouble.command:
            event = world.wait(trouble.command_after)
            if event not in (WAITING, IDLE):
                return event
            world.order(trouble.command)
            if event == IDLE and not trouble.command.startswith("crfs"):
                return event
        return world.wait(BOOT_S, cut_at=trouble.after)

    def _set_up(self, trouble: Disturbance) -> None:
        """What is plugged in, and what the HSM is told."""
        world = self.world
        world.swapped = trouble.swapped
        world.second_stick = None
        world.stick = self._own_stick
        if trouble.stick == "absent":
            world.stick = None
        elif trouble.stick:
            other = world.folder / "other.img"
            new_stick(other, 160 * MIB)
            if trouble.stick == "two":
                world.second_stick = other
            else:
                world.stick = other
        world.cache = trouble.cache
        world.errors = trouble.errors
        world.unplugged = trouble.act == "unplug"
        if trouble.hsm:
            order = dict(trouble.hsm)
            world.hsm.order(order.pop("do", "set"), **order)

    def _take_advice(self) -> bool:
        """What the message says; False if that means to switch off and on again."""
        world = self.world
        record = world.journal()
        if record is None:
            raise _Ended(NEEDS_HUMAN, "both slots of the journal are damaged")
        halt = record.halt
        self.result.halts.append(
            {"state": record.state, "what": halt.what, "advice": halt.advice}
            if halt
            else {"state": record.state, "what": "", "advice": "'sudo crfs resume'"}
        )
        if halt and not names_a_way(halt):
            raise _Ended(NEEDS_HUMAN, f"no way is named: {halt.what} {halt.advice}")
        if self._sick:
            self._heal_hsm()
            return False  # it was taken out and put in again
        if self.case.cure == "stick" and (world.stick != self._own_stick or world.unplugged):
            return False  # plugged in again at the next power-on
        latest = self.result.halts[-1]
        what = latest["what"]
        ways = _WAYS.findall(latest["advice"]) or ["crfs resume"]
        again = self._followed[-1:] == [what]
        if (again and len(ways) == 1) or self._followed.count(what) == 2:
            self._followed.append("")
            return False  # the same again: the user sees to the disk, and powers on
        self._followed.append(what)
        way = ways[1] if again else ways[0]  # "if it stays so", the second
        world.order(f"{way} --yes" if "--" in way else way)
        return True

    def _heal_hsm(self) -> None:
        """The module that belongs here is in its place, and answers."""
        self.world.hsm.stop()
        self.world.hsm.state_file.write_bytes(self._healthy)
        self.world.hsm.start()
        self._sick = False

    def _look_at_stick(self) -> None:
        leaks = find_in_image(self._own_stick, MARKERS)
        if leaks:
            raise _Ended(LEAKED, f"on the stick after boot {len(self.world.boots)}: {leaks}")

    # --- the judgement ------------------------------------------------------------------------

    def _judge(self) -> None:
        """Boot once more, as the firmware does by default, and look at everything."""
        world = self.world
        world.trial_next = False
        self._set_up(NOTHING)
        try:
            world.power_on(files={"judge": "1"})
        except Dark as error:
            raise _Ended(UNBOOTABLE, error.what) from None
        if world.wait(BOOT_S) != POWEROFF:
            world.power_off()
            raise _Ended(UNBOOTABLE, f"the last boot: {world.boot.panic or world.boot.ended}")
        boot = world.boot
        encrypted = boot.root == "/dev/mapper/cryptrfs"
        rules: Iterable[Lawful] = ENCRYPTED_LAWFUL if encrypted else PLAIN_LAWFUL
        differences = compare(load(self.plain), load(boot.files), rules)
        if differences:
            raise _Ended(LOST_FILES, "; ".join(differences[:5]))
        numbers = [line.split()[0] for line in boot.records]
        self.result.found = len(numbers)
        if numbers != [str(one) for one in range(1, len(numbers) + 1)]:
            raise _Ended(LOST_RECORDS, "records are missing between others")
        if len(numbers) < world.acknowledged:
            raise _Ended(LOST_RECORDS, f"{len(numbers)} of {world.acknowledged}")
        if encrypted:
            leaks = find_in_image(world.card, MARKERS)
            if leaks:
                raise _Ended(LEAKED, f"on the card: {leaks}")
            self._require_no_leftovers()
        outcome = COMPLETED if encrypted else ROLLED_BACK
        self.result.outcome = ADVICE if self.result.halts and encrypted else outcome

    def _require_cause(self) -> None:
        """A message that speaks of something else sends its reader the wrong way."""
        said = " ".join(f"{halt['what']} {halt['advice']}" for halt in self.result.halts)
        if said and not re.search(self.case.cause, said):
            raise _Ended(NEEDS_HUMAN, f"no message names the cause ({self.case.cause}): {said}")

    def _require_no_leftovers(self) -> None:
        fat = firmware.BootPartition(self.world.card)
        left = [
            name
            for name in ("crfs", "tryboot.txt", "crfs-stage.txt", "crfs-root.txt")
            if fat.read(name) is not None
        ]
        if left:
            raise _Ended(NEEDS_HUMAN, f"left on the boot partition: {', '.join(left)}")


class _Ended(Exception):
    """The case has ended in a way that is no success."""

    def __init__(self, outcome: str, detail: str) -> None:
        super().__init__(outcome)
        self.outcome, self.detail = outcome, detail


def names_a_way(halt: Halt) -> bool:
    """Whether a message says what happened, and what to do next."""
    return bool(halt.what.strip()) and ("crfs" in halt.advice or "read what" in halt.advice)


def boot_files(card: Path, folder: Path) -> dict[str, bytes]:
    """Every file of the boot partition, by its path there. `folder` is for the copies."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    subprocess.run(
        ["mcopy", "-s", "-n", "-Q", "-i", f"{card}@@{FAT_START}", "::/", str(folder)],
        check=True,
        capture_output=True,
        env={"MTOOLS_SKIP_CHECK": "1", "PATH": "/usr/bin:/bin"},
    )
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def run_case(case: Case, starts: Starts, folder: Path) -> Outcome:
    """One case, in a folder of its own that is made for it."""
    start = starts.points[case.phase]
    start.copy_to(folder)
    with World(folder) as world:
        world.acknowledged = start.acknowledged
        world.trial_next = start.trial
        result = Life(world, case, starts.plain).run()
        if result.outcome == ROLLED_BACK:
            untouched = starts.points[PHASES[0]].folder / "card.img"
            before = boot_files(untouched, folder / "before")
            _compare_boot_files(result, before, boot_files(world.card, folder / "after"))
    return result


def _compare_boot_files(result: Outcome, before: dict[str, bytes], after: dict[str, bytes]) -> None:
    wrong = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    ours = [name for name in wrong if not name.startswith("crfs/")]
    if ours:
        result.outcome, result.detail = LOST_FILES, f"the boot partition differs: {ours}"
