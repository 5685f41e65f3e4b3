"""How far the journey is: percent of the step, percent of the whole, time left.

Each step declares how many bytes it handles; speed is what was measured so far in this boot.
"""

from __future__ import annotations

import time
from typing import Any

from crfs import live, steps
from crfs.model import Plan, Record, dump

LOG_EVERY = 5.0  # seconds
_WRITE_EVERY = 1.0
# Before anything is measured: a middling card.
_GUESS = 12e6  # bytes a second


def estimate(plan: Plan) -> float:
    """Seconds that the whole journey may take, reboots apart, before anything is measured."""
    return sum(step.bytes(plan) for step in steps.ALL) / _GUESS


def facts_of(record: Record) -> dict[str, Any]:
    """What `crfs status` tells of the journal, apart from state and step."""
    return {
        "trials": record.trials,
        "destroyed": record.destroyed,
        "halt": dump(record.halt) if record.halt else None,
        "steps": [dump(one) for one in record.done_steps],
    }


class Progress:
    """Takes reports of bytes, tells lines for people, and keeps the file of `live`."""

    def __init__(self, plan: Plan, log: Any) -> None:
        self._plan = plan
        self._log = log
        self._total = sum(step.bytes(plan) for step in steps.ALL)
        self._began = time.monotonic()
        self._moved = 0.0  # bytes handled in this boot
        self._before = 0.0  # bytes of the steps before the current one
        self._step: steps.Step | None = None
        self._state = ""
        self._share = 0.0
        self._logged = self._written = 0.0
        self._record: dict[str, Any] = {}

    def keep(self, record: Record) -> None:
        """What the journal says now, for `crfs status`."""
        self._record = facts_of(record)

    def begin(self, state: str, step: steps.Step) -> None:
        """A step begins."""
        self._state, self._step, self._share = state, step, 0.0
        self._before = 0.0
        for one in steps.ALL:
            if one.id == step.id:
                break
            self._before += one.bytes(self._plan)
        self._logged = time.monotonic()
        number = [one.id for one in steps.ALL].index(step.id) + 1
        self._log.info(
            f"[{number}/{len(steps.ALL)}] {step.title} ...", kind="step_begun", step=step.id
        )
        self._write()

    def report(self, done: float, whole: float) -> None:
        """`done` of `whole` bytes of the step are handled."""
        share = min(done / whole, 1.0) if whole else 1.0
        assert self._step is not None
        share = max(share, self._share)
        self._moved += (share - self._share) * self._step.bytes(self._plan)
        self._share = share
        now = time.monotonic()
        if now - self._written >= _WRITE_EVERY:
            self._write()
        if now - self._logged >= LOG_EVERY:
            self._logged = now
            self._log.info(
                f"{self._step.id}: {share:.0%} of this step, {self.overall():.0%} in all, "
                f"about {live.clock(self.seconds_left())} left",
                step=self._step.id,
                percent=round(100 * share, 1),
                seconds_left=round(self.seconds_left()),
            )

    def end(self) -> None:
        """The current step is done."""
        assert self._step is not None
        self._moved += (1.0 - self._share) * self._step.bytes(self._plan)
        self._share = 1.0
        self._write()

    def settle(self, state: str, message: str = "") -> None:
        """No step is running: the run stopped, reboots or is done."""
        if self._step:
            self._before += self._share * self._step.bytes(self._plan)
        self._state, self._step = state, None
        self._write(message)

    def overall(self) -> float:
        step = self._step.bytes(self._plan) if self._step else 0.0
        return (self._before + self._share * step) / self._total

    def seconds_left(self) -> float:
        elapsed = time.monotonic() - self._began
        speed = self._moved / elapsed if elapsed > 5 and self._moved > 2**24 else _GUESS
        return (1.0 - self.overall()) * self._total / speed

    def _write(self, message: str = "") -> None:
        self._written = time.monotonic()
        content = {
            "state": self._state,
            "step": self._step.id if self._step else "",
            "title": self._step.title if self._step else "",
            "percent": round(100 * self._share, 1),
            "overall": round(100 * self.overall(), 1),
            "seconds_left": round(self.seconds_left()),
            "message": message,
        }
        live.write({**self._record, **content})
