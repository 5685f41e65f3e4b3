"""What somebody sees an LED do, and how that is read from their own words.

It is kept as what can be told apart from across a room: how many blinks, how fast, how far apart,
and whether it goes dark for good.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

RAPID = "rapid"
SLOW = "slow"

FLASH, OFF, ON = "flash", "off", "on"


@dataclass(frozen=True)
class Part:
    """What the LED does for a while; 0 and "" stand for what is not said."""

    kind: str
    speed: str = ""
    blinks: int = 0
    seconds: float = 0
    endless: bool = False


@dataclass(frozen=True)
class Sight:
    """What somebody sees: parts in their order, again and again."""

    parts: tuple[Part, ...]
    every: float = 0  # seconds from one beginning to the next

    @property
    def main(self) -> Part:
        """The flashing that carries the message: the last one."""
        flashes = [part for part in self.parts if part.kind == FLASH]
        return flashes[-1] if flashes else Part("")

    @property
    def has_preamble(self) -> bool:
        """A burst that nobody can count comes before what carries the message."""
        flashes = [part for part in self.parts if part.kind == FLASH]
        return len(flashes) > 1 and not flashes[0].blinks

    @property
    def is_burst(self) -> bool:
        """A burst and a pause, and nothing said of what follows."""
        kinds = [part.kind for part in self.parts]
        return kinds == [FLASH, OFF] and bool(self.parts[0].seconds and self.parts[1].seconds)

    @property
    def goes_dark(self) -> bool:
        """The end is darkness for good, not a pause."""
        last = self.parts[-1] if self.parts else Part("")
        if last.kind != OFF or last.seconds:
            return False
        return last.endless or not (self.main.blinks or self.every)

    @property
    def is_steady(self) -> bool:
        return any(part.kind == ON for part in self.parts)

    @property
    def pause(self) -> float:
        """Seconds between one message and the next, 0 if nothing is said of it."""
        if self.every or self.has_preamble or self.is_burst or not self.parts:
            return self.every
        return self.parts[-1].seconds if self.parts[-1].kind == OFF else 0


_NUMBERS = {
    "one": 1, "once": 1, "single": 1, "a single": 1, "two": 2, "twice": 2, "double": 2, "three": 3,
    "thrice": 3, "triple": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10,
}  # fmt: skip
_NUMBER_WORD = re.compile(r"\b(" + "|".join(sorted(_NUMBERS, key=len, reverse=True)) + r")\b")
_N = r"([0-9]{1,4}(?:\.[0-9]{1,3})?)"
_UNIT = r"(ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?)\b"
_EVERY = re.compile(rf"\b(?:every|each|per|once in|in)\s+{_N}?\s*{_UNIT}|{_N}\s*{_UNIT}\s+apart")
_RATE = re.compile(
    rf"{_N}\s*(?:x|times|blinks?|flash(?:es)?)?\s*(?:/|\ba|\bper)\s*{_UNIT}|{_N}\s*hz"
)
_DURATION = re.compile(rf"{_N}\s*{_UNIT}")
_COUNT = re.compile(r"\b([0-9]{1,4})(?:\s*x)?\b|\bx\s*([0-9]{1,4})\b")
_SPLIT = re.compile(
    r"[,;:+|/()\n]|\.(?![0-9])|[-=]+>|→|\s--?\s|\b(?:then|followed by|and|after that|afterwards"
    r"|next|before|until|with|eventually)\b"
)
_DARKNESS = (
    r"(?:off|out|dark|darkness|black|pause|pauses|paused|gap|break|nothing|dead|dies|unlit|silence"
    r"|waits?|stop(?:s|ped)?(?: \w+ing)?|(?:no|not|never) (?:light|lit|blink\w*|flash\w*))\b"
)
_DARK = re.compile(rf"\b{_DARKNESS}")
# Darkness is a clause of its own, with its length, also where no comma says so.
_DARK_CLAUSE = re.compile(
    rf"\b(?:stays? |remains? )?{_DARKNESS}(?:(?: for| of)? {_N}\s*{_UNIT})?"
    rf"|\b{_N}\s*{_UNIT} {_DARKNESS}(?!(?: for| of)? [0-9.]+\s*{_UNIT})"
)
_LIT = re.compile(r"\b(?:on|solid|steady|steadily|lit|glow\w*)\b")
_FLASHING = re.compile(r"\b(?:blink|flash|flicker|puls|strob|flutter|beat|burst)\w*")
_RAPID = re.compile(r"\b(?:rapid|fast|quick|hectic|frantic|flicker|flutter|strob|burst|crazy)\w*")
_SLOW = re.compile(r"\b(?:slow|long|lazy|lazily)\w*")
_ENDLESS = re.compile(
    r"\b(?:constant|continuous|continual|permanent|perpetual|forever|for ever|for good|always"
    r"|endless|nonstop|non-stop|all the time|without end|never|keep|stay|remain)\w*"
)
_NO_END = re.compile(
    r"\b(?:never|not|non|without|no) (?:stop|end|paus|break|go|turn)\w*"
    r"(?: (?:off|out|dark|black))?\b"
)
# What neither counts nor lasts: "about", and how long it took until something happened.
_ASIDES = re.compile(
    rf"[~≈]|\b(?:about|around|roughly|approximately)\b|\bafter (?:a|some|{_N})\s*{_UNIT}"
    r"|\bpower\w*(?: it| the pi)? (?:on|up)\b"
)
# "8 slow blinks after a burst" tells what comes first last.
_AFTER = re.compile(r"^(.*) after (?!that\b)(.*)$")
_REPEATED = re.compile(r"\b(blink|flash)(?:[ -]+\1)+\b")
# Said of a blinking LED, these do not mean that it goes off or stays on.
_IDIOMS = re.compile(r"\b(?:on (?:and|&) off|off (?:and|&) on|on ?[-/] ?off|goes on|comes on)\b")


def read(text: str) -> Sight:
    """What a description says, as far as it can be understood; never raises."""
    text = " ".join(text[:1000].lower().replace("n't", " not").split())
    text = _REPEATED.sub(lambda found: f"{found[0].count(found[1])} {found[1]}", text)
    text = _IDIOMS.sub(" blinks ", text)
    text = _NO_END.sub(" blinks endlessly ", text)
    text = _NUMBER_WORD.sub(lambda found: str(_NUMBERS[found[1]]), text)
    text = _AFTER.sub(r"\2 , \1", " ".join(_ASIDES.sub(" ", text).split()))
    text = _RATE.sub(_rate_in_words, text)
    every = 0.0
    if found := _EVERY.search(text):
        every = _seconds(found[1] or found[3] or "1", found[2] or found[4])
        text = _EVERY.sub(" ", text, count=1)
    text = re.sub(r"\ba (second|minute)\b", r"1 \1", text)
    text = _DARK_CLAUSE.sub(r", \g<0>, ", text)
    parts = _joined([part for clause in _SPLIT.split(text) if (part := _part(clause))])
    sight = Sight(tuple(parts), every)
    main = sight.main
    if every and main.kind and not (main.blinks or main.seconds):
        # Who says "blinks every 3 seconds" means one blink.
        parts[parts.index(main)] = Part(FLASH, main.speed, blinks=1)
    return Sight(tuple(parts), every)


def _rate_in_words(found: re.Match[str]) -> str:
    """ "5 a second" would be read as a duration else."""
    rate = float(found[1]) / _seconds("1", found[2]) if found[1] else float(found[3])
    if rate >= 3:
        return " rapid blinks endlessly "
    return f" blinks every {1 / rate:.3f} s " if rate else " "


def _seconds(number: str, unit: str) -> float:
    if unit.startswith(("ms", "mil")):
        return float(number) / 1000
    return float(number) * (60 if unit.startswith("m") else 1)


def _part(clause: str) -> Part | None:
    """One clause of a description; None if it says nothing of the LED."""
    seconds = 0.0
    if found := _DURATION.search(clause):
        seconds = _seconds(found[1], found[2])
        clause = _DURATION.sub(" ", clause)
    count = _COUNT.search(clause)
    blinks = int(count[1] or count[2]) if count else 0
    speed = RAPID if _RAPID.search(clause) else SLOW if _SLOW.search(clause) else ""
    endless = bool(_ENDLESS.search(clause))
    if _DARK.search(clause):
        return Part(OFF, seconds=seconds, endless=endless)
    if _FLASHING.search(clause) or speed or blinks:
        return Part(FLASH, speed, blinks, seconds, endless)
    if _LIT.search(clause):
        return Part(ON, seconds=seconds, endless=endless)
    if endless:
        return Part("", endless=True)
    return None


def _joined(parts: list[Part]) -> list[Part]:
    """Clauses that tell of one thing together: "fast blinking, constantly"."""
    found: list[Part] = []
    for part in parts:
        last = found[-1] if found else Part("")
        if found and ("" in (last.kind, part.kind) or _completes(last, part)):
            found[-1] = Part(
                part.kind or last.kind,
                part.speed or last.speed,
                part.blinks or last.blinks,
                part.seconds or last.seconds,
                part.endless or last.endless,
            )
        else:
            found.append(part)
    return [part for part in found if part.kind]


def _completes(last: Part, part: Part) -> bool:
    """Whether the second adds to the first, and contradicts it in nothing."""
    pairs = ((last.speed, part.speed), (last.blinks, part.blinks), (last.seconds, part.seconds))
    return last.kind == part.kind and all(
        one == other or not (one and other) for one, other in pairs
    )
