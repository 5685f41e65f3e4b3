"""What may befall one boot of the cheap Pi, as data that can be kept and replayed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from crfs.rehearsal.cuts.trace import Fault

# The names of the starting points: before which phase the fault happens.
PHASES = (1, 2, 3)


@dataclass(frozen=True)
class Disturbance:
    """One boot's trouble.

    `key`, `place`, `delay` and `act`: see trace.Fault. `after`: the plug is pulled so many seconds
    after power-on; `point`: at that point of the boot (see guest/init). `swapped`: card and stick
    have each other's names. `stick`: "" (as it was), "absent", "other" or "two". `hsm`: an order
    and its values (see hsm.Hsm.control), given before power-on. `command`: what the user types
    `command_after` seconds after power-on ("crfs rollback", "kill KILL", "reboot " ...). `clock`:
    the time it believes to be, seconds since 1970. `fill`: a folder whose disk is full.
    """

    key: str = ""
    place: str = "before"
    delay: float = 0.0
    act: str = "cut"
    after: float | None = None
    point: str = ""
    swapped: bool = False
    stick: str = ""
    hsm: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    command_after: float = 0.0
    clock: int | None = None
    fill: str = ""
    cache: str = ""
    errors: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def fault(self) -> Fault:
        """What the tracer in the Pi is told."""
        return Fault(self.key, self.place, self.delay, self.act)

    @property
    def files(self) -> dict[str, str]:
        """What `init` in the Pi is told."""
        told = {"boot-cut": self.point, "fill": self.fill}
        if self.clock is not None:
            told["clock"] = str(self.clock)
        return {name: text for name, text in told.items() if text}


NOTHING = Disturbance()


@dataclass(frozen=True)
class Case:
    """One trial of crfs: where it starts, and what happens in its first boots.

    `cure` names what the user does when crfs has stopped and asks for it: "hsm" (the module
    answers again), "stick" (plugged in again). `cause` is a regular expression: where crfs stops
    at all, a message of it has to match, because it names what is wrong.
    """

    id: str
    kind: str
    phase: int
    tryboot: bool
    boots: tuple[Disturbance, ...]
    seed: int = 0
    cure: str = ""
    cause: str = ""

    @property
    def step(self) -> str:
        """The step that is hit first, as far as it is known before."""
        first = self.boots[0]
        script = first.point.partition(" ")[0] if " " in first.point else ""
        return first.key.partition("|")[0] or script or f"phase-{self.phase}"

    def dump(self) -> dict[str, Any]:
        """As JSON keeps it; what is ordinary is left out."""
        boots = [
            {
                one.name: getattr(boot, one.name)
                for one in dataclasses.fields(Disturbance)
                if getattr(boot, one.name) != getattr(NOTHING, one.name)
            }
            for boot in self.boots
        ]
        return {**dataclasses.asdict(self), "boots": boots}


def load(data: dict[str, Any]) -> Case:
    """A case from what `dump` gave."""
    return Case(**{**data, "boots": tuple(Disturbance(**one) for one in data["boots"])})
