"""The blue LED: the patterns that Zymbit's HSM6 FAQ lists, and which one somebody describes."""

from __future__ import annotations

from dataclasses import dataclass

from crfs.sight import FLASH, OFF, RAPID, SLOW, Part, Sight, read


@dataclass(frozen=True)
class Pattern:
    id: str
    looks: str
    sight: Sight
    means: str
    advice: str


PATTERNS = (
    Pattern(
        "working",
        "one blink every 3 seconds",
        Sight((Part(FLASH, blinks=1),), every=3),
        "The module is bound to this Pi and works, in development mode.",
        "nothing to do; this is what you want to see before 'sudo crfs encrypt'",
    ),
    Pattern(
        "production",
        "3 rapid blinks every 3 seconds",
        Sight((Part(FLASH, RAPID, blinks=3),), every=3),
        "The module works, in production mode: it is bound for good to this Pi and this card.",
        "nothing to do; never move the module or the card, and never delete /var/lib/zymbit",
    ),
    Pattern(
        "waiting",
        "rapid blinking without end, about 5 a second",
        Sight((Part(FLASH, RAPID, endless=True),)),
        "The module has power and waits for its host: zkifc has not connected to it. While crfs "
        "migrates, this is normal. Else I2C is off, a pin has no contact, GPIO 4 is taken (often "
        "by 1-Wire), its number is the old one after an update to kernel 6.6 or later, the power "
        "supply is weak, or /var/lib/zymbit is damaged.",
        "'crfs doctor' looks at each of these",
    ),
    Pattern(
        "unbound",
        "rapid blinking, then dark for good",
        Sight((Part(FLASH, RAPID), Part(OFF, endless=True))),
        "The module is in production mode and does not find the Pi and the card that it was bound "
        "to. Most likely one of the three was exchanged. A weak power supply or an I2C that is off "
        "can look the same.",
        "put module, Pi and card together as they were when it was locked: 'crfs explain "
        "production-mode'",
    ),
    Pattern(
        "communication",
        "rapid for 1 second, dark for 1 second, 8 slow blinks, again and again",
        Sight((Part(FLASH, RAPID, seconds=1), Part(OFF, seconds=1), Part(FLASH, SLOW, 8))),
        "The communication between the Pi and the module was interrupted.",
        "power off, check the module's seat, the cables and the power supply, power on; then "
        "'journalctl -k | grep -i i2c'",
    ),
    Pattern(
        "secure-element",
        "rapid for 1 second, dark for 1 second, 5 slow blinks, again and again",
        Sight((Part(FLASH, RAPID, seconds=1), Part(OFF, seconds=1), Part(FLASH, SLOW, 5))),
        "The module cannot reach its own secure element. In production mode, with self-destruction "
        "armed, it has most likely destroyed its keys after a tamper event; what it alone could "
        "open is gone. Where that was never armed, the module is broken.",
        "the recovery key still opens cryptrfs: 'crfs explain after-self-destruct'",
    ),
)


def likeness(seen: Sight, pattern: Sight) -> float:
    """How well a description fits a pattern, from 0 to 1; what is not said counts for neither."""
    if seen.is_steady or not seen.parts:
        return 0
    main, other = seen.main, pattern.main
    # Weight and mark, from 0 to 1, of each thing that was said.
    marks = [(4, float(seen.goes_dark == pattern.goes_dark)), (4, _preamble(seen, pattern))]
    if not main.kind:
        marks.append((3, 0))  # nothing but darkness was seen
    if main.blinks:
        marks.append((5, _near(main.blinks, other.blinks, off_by=2)))
    elif main.endless:
        marks.append((5, float(not other.blinks)))
    elif not seen.is_burst:
        # Who says no number has most likely seen a blinking that nobody can count.
        marks.append((2, 0.5 if other.blinks else 1))
    if main.speed and other.speed and not seen.is_burst:
        marks.append((3, float(main.speed == other.speed)))
    elif main.speed == RAPID and not seen.is_burst:
        marks.append((3, 0.5))
    if seen.pause:
        marks.append((2, _near(seen.pause, pattern.pause, off_by=3)))
    return sum(weight * mark for weight, mark in marks) / sum(weight for weight, _ in marks)


def _preamble(seen: Sight, pattern: Sight) -> float:
    if seen.has_preamble or seen.is_burst:
        return float(pattern.has_preamble)
    return 0.5 if pattern.has_preamble else 1


def _near(value: float, wanted: float, *, off_by: float) -> float:
    """1 for equal, 0 from a difference of `off_by` on; people count and time inexactly."""
    return max(0.0, 1 - abs(value - wanted) / off_by) if wanted else 0.0


def rank(text: str) -> list[tuple[float, Pattern]]:
    """All patterns with their likeness to a description, the best first; [] if it says nothing."""
    seen = read(text)
    if not seen.parts:
        return []
    marked = [(likeness(seen, pattern.sight), pattern) for pattern in PATTERNS]
    return sorted(marked, key=lambda one: -one[0])
