"""Percent and time left, and what everyone may read of them."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from crfs import live, progress, steps
from crfs.live import clock
from crfs.progress import Progress
from tests.unit.pi import FakePi, plan


class Log:
    def __init__(self) -> None:
        self.said: list[tuple[str, dict[str, Any]]] = []

    def info(self, text: str, **fields: Any) -> None:
        self.said.append((text, fields))


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0 s"), (89.4, "89 s"), (90, "2 min"), (5000, "83 min"), (5430, "1 h 30 min")],
)
def test_clock(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown


def test_journey_goes_from_nothing_to_all(pi: FakePi) -> None:
    """Never backwards, and never more than all."""
    shown = Progress(plan(), Log())
    percents = []
    for state, found in steps.BY_STATE.items():
        for step in found:
            shown.begin(state, step)
            percents.append(shown.overall())
            for share in (0.1, 0.5, 0.9, 1.2):
                shown.report(share * 1000, 1000)
                percents.append(shown.overall())
                assert shown.seconds_left() >= 0
            shown.end()
            percents.append(shown.overall())
    assert percents[0] == 0
    assert percents == sorted(percents)
    assert percents[-1] == pytest.approx(1)


def test_a_step_of_no_bytes_is_whole(pi: FakePi) -> None:
    shown = Progress(plan(), Log())
    shown.begin("staging", steps.ALL[0])
    shown.report(0, 0)
    assert live.read()["step"] == steps.ALL[0].id


def test_lines_come_now_and_then(pi: FakePi, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    log = Log()
    shown = Progress(plan(), log)
    copy = next(step for step in steps.ALL if step.id == "copy")
    shown.begin("staging", copy)
    for number in range(200):
        now += 0.1
        shown.report(number, 200)
    lines = [(text, fields) for text, fields in log.said if "percent" in fields]
    assert 3 <= len(lines) <= 5
    text, fields = lines[-1]
    assert "% of this step" in text
    assert "left" in text
    assert fields["step"] == "copy"
    assert 0 < fields["percent"] <= 100
    assert fields["seconds_left"] > 0


def test_speed_is_what_was_measured(pi: FakePi, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    shown = Progress(plan(), Log())
    copy = next(step for step in steps.ALL if step.id == "copy")
    shown.begin("staging", copy)
    guess = shown.seconds_left()
    now += 10
    shown.report(0.9, 1)
    assert shown.seconds_left() < guess / 4


def test_status_is_for_everyone_and_whole(pi: FakePi) -> None:
    live.write({"state": "staging"})
    assert live.read() == {"state": "staging"}
    assert stat.S_IMODE(Path(live.STATUS).stat().st_mode) == 0o644
    assert [path.name for path in Path(live.STATUS).parent.glob("status*")] == ["status.json"]


def test_no_room_for_the_status_stops_nothing(pi: FakePi, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what was told before does not hold any more."""
    live.write({"state": "staging"})

    def dump(content: object, file: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(json, "dump", dump)
    live.write({"state": "settling"})
    assert live.read() == {}


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '"x"', "\udcff"])
def test_broken_status_is_no_status(pi: FakePi, content: str) -> None:
    Path(live.STATUS).write_bytes(content.encode(errors="surrogateescape"))
    assert live.read() == {}


def test_settled(pi: FakePi) -> None:
    shown = Progress(plan(), Log())
    shown.begin("staging", steps.ALL[0])
    shown.settle("done", "over")
    status = json.loads(Path(live.STATUS).read_text())
    assert (status["state"], status["step"], status["message"]) == ("done", "", "over")


def test_lock_tells_whether_a_worker_runs(pi: FakePi) -> None:
    assert not live.is_running()
    descriptor = os.open(live.LOCK, os.O_RDWR | os.O_CREAT)
    assert not live.is_running()
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert live.is_running()
    os.close(descriptor)
    assert not live.is_running()


def test_estimate_grows_with_the_data() -> None:
    assert progress.estimate(plan()) > 60
