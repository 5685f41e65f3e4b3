"""All services have ended before the root is made read-only, not only been told to."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from crfs import probe, runner, services
from crfs.errors import LayoutError
from tests.unit.pi import FakePi

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
