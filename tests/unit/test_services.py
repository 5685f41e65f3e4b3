"""All services have ended before the root is made read-only, not only been told to."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from pathlib import Path

import pytest

from crfs import probe, runner, services
from crfs.bootfiles import BootFiles
from crfs.errors import CommandError, LayoutError
from crfs.steps import Context, stage
from tests.unit.pi import FakePi, record

READ_ONLY = ["mount", "-o", "remount,ro", "/"]

JOBS = """\
  12 cfg_SD_crfs.service start running
1034 mariadb.service     stop  running
1035 log2ram.service     stop  waiting
"""


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "_DROP_IN", tmp_path / "crfs-stage.target.d/kept.conf")
    monkeypatch.setattr(services, "_LINGER", tmp_path / "linger")
    monkeypatch.setattr(services, "_LOGGED_IN", tmp_path / "users")
    monkeypatch.setattr(services, "_PAUSE", 0)


def test_what_is_still_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "query", lambda argv: JOBS)
    assert probe.stopping_units() == ("mariadb.service", "log2ram.service")
    monkeypatch.setattr(runner, "query", lambda argv: "")
    assert probe.stopping_units() == ()


def test_the_end_of_each_service_is_waited_for(pi: FakePi) -> None:
    pi.stopping = [("mariadb.service",), ("mariadb.service",), ()]
    services.stop_all(("ssh.service",))
    assert not pi.stopping
    assert pi.effects[-3:] == [
        ["systemctl", "isolate", "crfs-stage.target"],
        ["systemctl", "stop", "user@*.service"],
        ["systemctl", "stop", "user@*.service"],
    ]
    assert services._DROP_IN.read_text() == "[Unit]\nWants=ssh.service\n"


def test_a_service_that_never_ends_is_named(pi: FakePi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "_STOPPING", 0)
    monkeypatch.setattr(probe, "stopping_units", lambda: ("eternal.service",))
    with pytest.raises(LayoutError, match=r"eternal\.service"):
        services.stop_all(())


@pytest.fixture
def context(pi: FakePi) -> Context:
    kept = record("settling", str(pi.boot))
    return Context(pi.journal, kept, BootFiles(pi.boot, kept.plan), lambda done, whole: None, print)


def _busy(times: int) -> Callable[[list[str]], None]:
    """The root cannot be made read-only so many times."""
    left = iter(range(times))

    def on_run(argv: list[str]) -> None:
        if argv == READ_ONLY and next(left, None) is not None:
            raise CommandError("mount point is busy", advice="")

    return on_run


def test_a_program_that_is_ending_has_time_for_it(
    pi: FakePi, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of a desktop, which is not systemd's to stop, and has just lost its display."""
    monkeypatch.setattr(stage, "_PAUSE", 0)
    pi.on_run = _busy(3)
    stage._stop_services(context)
    assert pi.effects[-2:] == [["sync"], READ_ONLY], "what it wrote last is on the card as well"
    assert pi.effects.count(READ_ONLY) == 4


def test_a_program_that_goes_on_writing_stops_the_run(
    pi: FakePi, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "_ENDING", 0)
    monkeypatch.setattr(stage, "_writers", lambda: ["editor (12): /home/pi/text"])
    pi.on_run = _busy(1000)
    with pytest.raises(LayoutError, match="editor"):
        stage._stop_services(context)


def test_services_of_users_start_again(pi: FakePi) -> None:
    services._LOGGED_IN.mkdir()
    (services._LOGGED_IN / "70000").touch()
    (services._LOGGED_IN / ".#other").touch()
    services._LINGER.mkdir()
    name = pwd.getpwuid(os.getuid()).pw_name
    for one in (name, "nobody-of-that-name"):
        (services._LINGER / one).touch()
    services.start_all()
    units = [f"user@{os.getuid()}.service", "user@70000.service"]
    assert pi.effects[-1] == ["systemctl", "start", "--no-block", *units]
