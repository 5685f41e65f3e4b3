"""`crfs led`: what the blue LED says, or which of its patterns somebody describes."""

from __future__ import annotations

import json
import sys
import textwrap

from crfs import led
from crfs.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:  # see live.py
    import argparse
    from typing import Any

    from crfs.led import Pattern

# Below the first mark a match is called a guess; what comes this near to the best is shown too.
_SURE = 0.6
_CLOSE = 0.1


def run(args: argparse.Namespace) -> int:
    text = " ".join(args.description)
    if not text and not args.json:
        print("\n\n".join(_explain(one, f"{n}. ") for n, one in enumerate(led.PATTERNS, 1)))
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            return 0
        text = _ask()
        if not text:
            return 0
    found = _find(text) if text else [(0.0, pattern) for pattern in led.PATTERNS]
    if args.json:
        print(json.dumps([_row(mark, one, bool(text)) for mark, one in found], indent=1))
    else:
        print(_answer(found))
    return 0


def _ask() -> str:
    """A description, "" for none; a number stands for the words of the list."""
    try:
        said = input("\nWhich do you see? Its number, or your own words (Enter: none): ").strip()
    except EOFError:
        return ""
    listed = {str(number): pattern.looks for number, pattern in enumerate(led.PATTERNS, 1)}
    return listed.get(said, said)


def _find(text: str) -> list[tuple[float, Pattern]]:
    """The patterns with their likeness. Raises UsageError for what says nothing of an LED."""
    found = led.rank(text)
    if not found:
        raise UsageError(
            "That does not describe a blinking LED.",
            data="Nothing was changed.",
            advice="say what you see, part by part: 'crfs led \"fast 1s, off 1s, 5 slow\"'; "
            "'crfs led' lists all patterns",
        )
    return found


def _answer(found: list[tuple[float, Pattern]]) -> str:
    best = found[0][0]
    if best == 0:
        return (
            "None of the six patterns is a light that stays on. Is it the blue LED of the module, "
            "and not one of the Pi?\n'crfs led' lists all patterns."
        )
    likely = [pattern for mark, pattern in found if mark > best - _CLOSE]
    lines = [] if best >= _SURE else ["No pattern fits well; this is the nearest:", ""]
    lines.append("\n\nOr:\n".join(_explain(pattern) for pattern in likely))
    return "\n".join(lines)


def _explain(pattern: Pattern, number: str = "") -> str:
    title = f"{number}{pattern.looks[0].upper()}{pattern.looks[1:]}"
    return "\n".join([title, _indent(pattern.means), _indent(f"Next: {pattern.advice}")])


def _indent(text: str) -> str:
    return textwrap.indent(textwrap.fill(text, 76, break_on_hyphens=False), "   ")


def _row(mark: float, pattern: Pattern, described: bool) -> dict[str, Any]:
    row = {name: getattr(pattern, name) for name in ("id", "looks", "means", "advice")}
    return {**row, "likeness": round(mark, 2)} if described else row
