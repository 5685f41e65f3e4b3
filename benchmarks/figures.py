"""What the measurements come to: the limit of the devices, sums of steps, silences."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.devices import Profile

# Steps of crfs by what they do. What is in neither of them is preparation.
COPYING = ("copy", "read-back", "settle", "compare-stage", "restore", "compare-root")
WIPING = ("discard-root", "scrub")
BACK = ("restore",)
PEER_BACK = ("copy-back", "grow")


@dataclass(frozen=True)
class Row:
    """One flow on one case. Seconds and bytes.

    `copying_s` is for crfs the time of all steps that copy, settle or compare, for a peer all of
    its time. `back_s` is the part that brings the files to the encrypted root, `wiping_s` what
    overwrites or discards the plain one. `down_s` is how long the root may not be written to; for
    crfs, how long an application was silent. `differences` counts what is not as it was.
    """

    flow: str
    total_s: float
    copying_s: float
    back_s: float
    wiping_s: float
    down_s: float
    card_bytes: float
    stick_bytes: float
    differences: int


def limit(used: float, profile: Profile) -> tuple[float, float]:
    """Seconds in which `used` bytes cannot be undercut: out to the stick, and back to the card.

    Nothing is faster than the slower of reading here and writing there.
    """
    card, stick = profile.card, profile.stick
    out = used / min(card.read_bps, stick.write_bps)
    back = used / min(stick.read_bps, card.write_bps)
    return out, back


def seconds_of(steps: Iterable[Mapping[str, Any]], names: Sequence[str]) -> float:
    """What the steps of these names took together."""
    return sum(float(step["seconds"]) for step in steps if step["id"] in names)


def longest_silence(times: Sequence[float], since: float) -> float:
    """The longest time between two signs of life, of which the second came after `since`."""
    pairs = itertools.pairwise(times)
    return max((after - before for before, after in pairs if after > since), default=0.0)


def row(result: Mapping[str, Any]) -> Row:
    """A result as the table shows it."""
    total = float(result["total_s"])
    written = result["written"]
    if result["flow"] == "crfs":
        steps = result["steps"]
        copying, back = seconds_of(steps, COPYING), seconds_of(steps, BACK)
        wiping, down = seconds_of(steps, WIPING), float(result["service_gap_s"])
    else:
        phases = result["phases"]
        back = sum(phases.get(name, 0.0) for name in PEER_BACK)
        copying, wiping, down = total, 0.0, total
    return Row(
        str(result["flow"]),
        *(total, copying, back, wiping, down),
        *(float(written["card"]), float(written["stick"]), int(result["differences"])),
    )
