"""Which cases there are: a list for each kind, the same for the same seed and starting points."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from crfs.rehearsal.cuts.card import CARD_BYTES, STICK_BYTES
from crfs.rehearsal.cuts.faults import PHASES, Case, Disturbance
from crfs.rehearsal.cuts.starts import Start
from crfs.rehearsal.cuts.storage import CACHES
from crfs.rehearsal.cuts.trace import PLACES
from crfs.rehearsal.layout import SECTOR

# Effects shorter than this have no middle that a timer could meet, seconds.
SHORT = 0.02
# When a worker begins, seconds from power-on: before, nobody could type a command.
EARLY = 2
POINTS = ("kernel", "initramfs", "local-top", "unlocked", "mounted", "local-bottom")

# What a message has to say of the cause.
STICK = "stick|/dev/[a-z]+"
FAILING = "failing|failed|error|read back|differs"
FULL = "full|space|room"

Points = dict[int, Start]
Source = Callable[[random.Random, Points, bool], Iterator[Case]]


def _case(
    kind: str, phase: int, tryboot: bool, *boots: Disturbance, cure: str = "", cause: str = ""
) -> Case:
    """A case whose id follows from what it is."""
    case = Case("", kind, phase, tryboot, boots, 0, cure, cause)
    text = json.dumps(case.dump(), sort_keys=True)
    short = hashlib.sha256(text.encode()).hexdigest()[:8]
    return dataclasses.replace(case, id=f"{kind}-{short}")


def cuts_of(effects: tuple[tuple[str, float], ...]) -> Iterator[Disturbance]:
    """Before, in the middle of and after each effect."""
    for key, seconds in effects:
        for place in PLACES:
            if place != "middle":
                yield Disturbance(key=key, place=place)
            elif seconds >= SHORT:
                yield Disturbance(key=key, place=place, delay=round(seconds / 2, 3))


def effect(rng: random.Random, points: Points, tryboot: bool) -> Iterator[Case]:
    """Each effect of each phase, each point of its boot, each command of crfs in the initramfs."""
    for phase, start in points.items():
        for one in cuts_of(start.effects):
            yield _case("effect", phase, tryboot, one)
        commands = [f"{one} {place}" for one in start.points for place in ("before", "after")]
        for point in (*POINTS, *commands):
            yield _case("effect", phase, tryboot, Disturbance(point=point))


def at_random(rng: random.Random, points: Points, tryboot: bool) -> Iterator[Case]:
    """Any time over the journey."""
    for _ in range(300):
        phase = rng.choices(PHASES, [points[one].seconds for one in PHASES])[0]
        yield _case("random", phase, tryboot, _any_time(rng, points[phase]))


def _any_time(rng: random.Random, start: Start) -> Disturbance:
    return Disturbance(after=round(rng.uniform(0.5, start.seconds + 1), 2))


def _any_effect(rng: random.Random, start: Start) -> Disturbance:
    return rng.choice(list(cuts_of(start.effects)))


def resume(rng: random.Random, points: Points, tryboot: bool) -> Iterator[Case]:
    """A second and a third cut while the first is being recovered from."""
    for number in range(200):
        phase = rng.choice(PHASES)
        more = [_any_time(rng, points[phase]) for _ in range(1 + number % 2)]
        yield _case("resume", phase, tryboot, _any_effect(rng, points[phase]), *more)


def cache(rng: random.Random, points: Points, tryboot: bool) -> Iterator[Case]:
    """A cut that also takes what card and stick had not yet written."""
    for number in range(200):
        phase = rng.choice(PHASES)
        # Half of them at writes whose order matters most: those to the boot partition.
        cuts = list(cuts_of(points[phase].effects))
        if number % 2:
            cuts = [cut for cut in cuts if _on_boot_partition(cut.key)]
        cut = dataclasses.replace(rng.choice(cuts), cache=CACHES[number % len(CACHES)])
        yield _case("cache", phase, tryboot, cut)


def _on_boot_partition(key: str) -> bool:
    what = key.split("|")[1].split(" ")[0]
    return what in ("journal", "replace", "remove", "write_synced", "sync_folder", "arm")


def io(rng: random.Random, points: Points, tryboot: bool) -> Iterator[Case]:
    """Requests that fail, at one sector, once or for as long as the boot lasts."""
    for number in range(60):
        phase = rng.choice(PHASES)
        disk = rng.choice(("card", "stick"))
        last = (CARD_BYTES if disk == "card" else STICK_BYTES // 3) // SECTOR
        rule = {
            "iotype": rng.choice(("read", "write")),
            "sector": rng.randrange(8, last, 8),
            "once": bool(number % 2),
        }
        yield _case("io", phase, tryboot, Disturbance(errors={disk: [rule]}), cause=FAILING)


def stick(rng: random.Random, points: Points, tryboot: bool) -> Iterator[Case]:
    """Pulled at work; another stick, two, none, or other names, from the boot after a cut on."""
    for phase in PHASES:
        for what in ("absent", "other", "two", "swapped"):
            for at_once in (True, False):
                after = Disturbance(swapped=True) if what == "swapped" else Disturbance(stick=what)
                cut = [] if at_once else [_any_effect(rng, points[phase])]
                yield _case("stick", phase, tryboot, *cut, after, after, cure="stick", cause=STICK)
        for _ in range(6):
            pulled = dataclasses.replace(_any_effect(rng, points[phase]), act="unplug")
            yield _case("stick", phase, tryboot, pulled, cure="stick", cause=f"{STICK}|{FAILING}")


def hsm(rng: random.Random, points: Points, tryboot: bool) -> Iterator[Case]:
    """An HSM that does not do what it should, from some boot on, until the user sees to it."""
    orders: tuple[dict[str, str], ...] = (
        *({"answering": one} for one in ("silent", "slow", "wrong")),
        {"do": "swap"},
        {"do": "tamper"},
        {"do": "lock-binding"},
    )
    for phase in PHASES:
        for order in orders:
            for at_once in (True, False):
                cut = [] if at_once else [_any_effect(rng, points[phase])]
                trouble = Disturbance(hsm=order)
                yield _case("hsm", phase, tryboot, *cut, trouble, cure="hsm", cause="HSM")


def machine(rng: random.Random, points: Points, tryboot: bool) -> Iterator[Case]:
    """The worker killed, disks full, wrong clocks, a user's own reboots and commands."""
    for phase, start in points.items():
        keys = [key for key, _ in start.effects]
        for act in ("kill", "term", "fail"):
            for key in rng.sample(keys, 6):
                yield _case("machine", phase, tryboot, Disturbance(key=key, act=act))
        for clock in (0, 4_000_000_000):
            yield _case("machine", phase, tryboot, Disturbance(clock=clock))
            cut = _any_effect(rng, start)
            yield _case("machine", phase, tryboot, cut, Disturbance(clock=clock))
        for folder in ("/boot/firmware", "/var/tmp", "/run"):  # noqa: S108 - on the card
            yield _case("machine", phase, tryboot, Disturbance(fill=folder), cause=FULL)
        for command in (
            *("crfs encrypt --yes", "crfs status", "crfs verify", "crfs resume"),
            *("reboot ", "reboot 0 tryboot", "poweroff "),
        ):
            at = round(rng.uniform(EARLY, start.seconds), 2)
            trouble = Disturbance(command=command, command_after=at)
            yield _case("machine", phase, tryboot, trouble)
        if phase == PHASES[-1]:
            # Another program enlarges the filesystem, before crfs does or meanwhile.
            for _ in range(4):
                at = round(rng.uniform(EARLY, start.seconds), 2)
                trouble = Disturbance(command="resize2fs ", command_after=at)
                yield _case("machine", phase, tryboot, trouble)
        again = [
            Disturbance(command="reboot ", command_after=round(rng.uniform(EARLY, 12), 2))
            for _ in range(5)
        ]
        yield _case("machine", phase, tryboot, *again)


def rollback(rng: random.Random, points: Points, tryboot: bool) -> Iterator[Case]:
    """`crfs rollback` at any time, and a cut while it is at work."""
    for phase, start in points.items():
        for number in range(20):
            at = round(rng.uniform(EARLY, start.seconds), 2)
            cut = round(at + rng.uniform(0.3, 5), 2) if number % 4 else None
            trouble = Disturbance(command="crfs rollback", command_after=at, after=cut)
            again = [_any_time(rng, start)] if number % 4 == 3 else []
            yield _case("rollback", phase, tryboot, trouble, *again)


SOURCES: dict[str, Source] = {
    "effect": effect,
    "random": at_random,
    "resume": resume,
    "cache": cache,
    "io": io,
    "stick": stick,
    "hsm": hsm,
    "machine": machine,
    "rollback": rollback,
}

# How many cases a kind gets beside the others.
WEIGHTS = {
    "effect": 12,
    "random": 3,
    "resume": 3,
    "cache": 4,
    "io": 2,
    "stick": 1,
    "hsm": 1,
    "machine": 2,
    "rollback": 2,
}


def all_cases(kind: str, seed: int, points: Points, *, tryboot: bool) -> list[Case]:
    """Every case of a kind, in the order of the plan."""
    rng = random.Random(f"{seed} {kind} {tryboot}")  # noqa: S311 - to be the same again is wanted
    seeded = SOURCES[kind](rng, points, tryboot)
    found = {case.id: dataclasses.replace(case, seed=seed) for case in seeded}
    return list(found.values())


def choose(cases: list[Case], count: int, seed: int) -> list[Case]:
    """`count` of the cases: steps in turn, and each effect once before any is met again."""
    rng = random.Random(f"{seed} choose")  # noqa: S311
    by_step: dict[str, list[tuple[int, Case]]] = {}
    met: Counter[tuple[int, str]] = Counter()
    for case in rng.sample(cases, len(cases)):
        effect_of = (case.phase, case.boots[0].key)
        by_step.setdefault(f"{case.phase} {case.step}", []).append((met[effect_of], case))
        met[effect_of] += 1
    waiting = [sorted(found, key=lambda one: one[0], reverse=True) for found in by_step.values()]
    chosen: list[Case] = []
    while len(chosen) < min(count, len(cases)):
        for one in waiting:
            if one and len(chosen) < count:
                chosen.append(one.pop()[1])
    return chosen


def shares(kinds: Sequence[str], count: int) -> dict[str, int]:
    """How many cases of each kind; at least one."""
    whole = sum(WEIGHTS[kind] for kind in kinds)
    return {kind: max(1, round(count * WEIGHTS[kind] / whole)) for kind in kinds}
