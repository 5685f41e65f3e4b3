"""`crfs led`: each pattern of the FAQ is found from what people say of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crfs import cli, led, sight
from crfs.led import PATTERNS, Pattern

WAYS = {
    "working": (
        "once every 3 seconds",
        "one blink, then off for 3 seconds",
        "every 3 sec it blinks once",
        "a single flash each 3 s",
        "slow blink",
        "short blink every ~3s",
        "LED flashes once, waits three seconds, flashes once again",
    ),
    "production": (
        "three rapid blinks every 3 seconds",
        "3 quick flashes, pause, 3 quick flashes",
        "triple flash every 3s",
        "3x fast, 3 s off",
        "blink blink blink pause",
        "three fast blips and a 3 second gap",
        "blinks thrice, then nothing for 3 seconds",
    ),
    "waiting": (
        "constant rapid blinking",
        "5 flashes per second",
        "it never stops blinking",
        "flickers all the time",
        "keeps blinking rapidly on and off",
        "5 Hz",
        "blinking like crazy, non stop",
        "blinks fast after power on",
    ),
    "unbound": (
        "rapid blinking then LED off permanently",
        "blinks fast while booting, eventually turns off",
        "flickers, then stays dark",
        "fast, off",
        "doesn't blink",
        "flashes quick when I power it up, after a minute the light goes out",
        "fast blinking for 30 seconds, then LED stays off",
    ),
    "communication": (
        "1 second very rapid flash, 1 second off, 8 slow blinks",
        "flickers a second, dark for a second, then eight slow blinks",
        "fast 1s -> off 1s -> 8 slow",
        "8 slow blinks",
        "8 long blinks after a fast flicker",
    ),
    "secure-element": (
        "fast 1s, off 1s, 5 slow",
        "quick burst; short pause; then it blinks slowly 5 times",
        "rapid/off/five long",
        "blinks 5 times slowly",
        "rapid flash one second off one second five slow blinks",
        "burst - gap - 5 slow",
    ),
}


def crfs(*argv: str) -> int:
    return cli.main(argv)


def told(capsys: pytest.CaptureFixture[str], *argv: str) -> Any:
    assert crfs("led", "--json", *argv) == 0
    return json.loads(capsys.readouterr().out)


def test_the_faq_has_six_patterns_and_each_is_described_in_several_ways() -> None:
    assert len(PATTERNS) == 6
    assert set(WAYS) == {pattern.id for pattern in PATTERNS}
    assert all(len(ways) >= 3 for ways in WAYS.values())


@pytest.mark.parametrize(("id", "way"), [(id, way) for id, ways in WAYS.items() for way in ways])
def test_pattern_is_found_from_its_description(
    capsys: pytest.CaptureFixture[str], id: str, way: str
) -> None:
    first, second, *_ = told(capsys, way)
    assert first["id"] == id
    assert first["likeness"] > second["likeness"]
    assert crfs("led", way) == 0
    assert capsys.readouterr().out.lower().startswith(first["looks"][:30].lower())


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: str(pattern.id))
def test_own_words_are_understood(pattern: Pattern) -> None:
    """What the list says of a pattern is a description of it, and fits fully."""
    (best, found), (next_best, _), *_ = led.rank(pattern.looks)
    assert (best, found) == (1, pattern)
    assert next_best < 0.8


def test_likeness_is_full_only_with_itself() -> None:
    for pattern in PATTERNS:
        for other in PATTERNS:
            full = led.likeness(pattern.sight, other.sight) == 1
            assert full == (pattern is other), f"{pattern.id} {other.id}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5 a second", (0, sight.RAPID, 0.0)),
        ("twice", (2, "", 0.0)),
        ("once a second", (1, "", 1.0)),
        ("7 slow", (7, sight.SLOW, 0.0)),
        ("blinks x8 slowly every 1.5 min", (8, sight.SLOW, 90.0)),
        ("blinks 500 ms apart", (1, "", 0.5)),
    ],
)
def test_numbers(text: str, expected: tuple[int, str, float]) -> None:
    seen = sight.read(text)
    assert (seen.main.blinks, seen.main.speed, seen.every) == expected


def test_a_number_is_a_count_of_blinks(capsys: pytest.CaptureFixture[str]) -> None:
    """Only in answer to the menu is it a line of the list."""
    assert told(capsys, "5")[0]["id"] == "secure-element"


def test_half_a_description_leaves_both_open(capsys: pytest.CaptureFixture[str]) -> None:
    assert crfs("led", "fast 1s, off 1s") == 0
    out = capsys.readouterr().out
    assert "8 slow" in out and "Or:" in out and "5 slow" in out


def test_miscounted_by_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "6 slow blinks")[0]["id"] == "secure-element"
    assert told(capsys, "9 slow blinks")[0]["id"] == "communication"


def test_light_that_stays_on_is_no_pattern(capsys: pytest.CaptureFixture[str]) -> None:
    assert crfs("led", "solid") == 0
    assert "None of the six patterns" in capsys.readouterr().out


def test_poor_fit_is_called_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert crfs("led", "4 slow, then off forever") == 0
    assert capsys.readouterr().out.startswith("No pattern fits well")


@pytest.mark.parametrize("text", ["hello", "?", "the the", " "])
def test_what_says_nothing_is_refused(capsys: pytest.CaptureFixture[str], text: str) -> None:
    assert crfs("led", text) == 2
    said = capsys.readouterr()
    assert not said.out
    assert "does not describe" in said.err and "Next: " in said.err


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert crfs("led") == 0
    out = capsys.readouterr().out
    assert all(pattern.looks[1:] in out for pattern in PATTERNS)
    rows = told(capsys)
    assert [row["id"] for row in rows] == [pattern.id for pattern in PATTERNS]
    assert "likeness" not in rows[0]


@pytest.mark.parametrize(
    ("typed", "expected"), [("2", "3 rapid"), ("fast, off", "Rapid blinking, then"), ("", "")]
)
def test_menu_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, typed: str, expected: str
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda prompt: typed)
    assert crfs("led") == 0
    answer = capsys.readouterr().out.split("destruct'\n")[-1]
    assert answer.startswith(expected) and bool(answer) == bool(expected)


def test_menu_ends_with_the_input(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(prompt: str) -> str:
        raise EOFError

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", end)
    assert crfs("led") == 0


_words = st.sampled_from(
    [*" ".join(way for ways in WAYS.values() for way in ways).split(), "x", "9999", "0", "a", "/s",
     "hz", "0 hz", "never", "per", "minute", "\u0664", "\u00b2", "1.5", "-", "on and off"]
)  # fmt: skip


@given(st.text(max_size=200) | st.lists(_words, max_size=15).map(" ".join))
@example("9" * 5000)
@example("0 a second")
@example("every 0 s")
def test_any_description_is_read(text: str) -> None:
    marks = [mark for mark, _ in led.rank(text)]
    assert len(marks) in (0, 6)
    assert marks == sorted(marks, reverse=True)
    assert all(0 <= mark <= 1 for mark in marks)


@given(st.text(max_size=60))
def test_the_command_never_ends_in_a_traceback(text: str) -> None:
    # What begins with a dash is an option, and refused as one.
    assert crfs("led", "--", text) in (0, 2)
