"""Everything that runs on the system: stopped for the last copy, and started again."""

from __future__ import annotations

import pwd
import time
from collections.abc import Iterable
from pathlib import Path

from crfs import probe, runner
from crfs.errors import CARD_UNTOUCHED, LayoutError

_DROP_IN = Path("/run/systemd/system/crfs-stage.target.d/kept.conf")
_LINGER = Path("/var/lib/systemd/linger")  # a file for each user whose services run without a login
_LOGGED_IN = Path("/run/systemd/users")  # a file for each, by number
_OF_USERS = "user@*.service"
_STOPPING = 600.0  # seconds; systemd kills after 90 unless a unit says otherwise
_PAUSE = 0.5


def stop_all(kept: Iterable[str]) -> None:
    """Stop all but `crfs-stage.target` and the units to be kept; return when they have ended.

    Raises LayoutError if one does not. Programs that somebody has started in a session of their own
    go on: ssh to see the progress by is one of them.
    """
    _DROP_IN.parent.mkdir(parents=True, exist_ok=True)
    _DROP_IN.write_text(f"[Unit]\nWants={' '.join(kept)}\n")
    runner.run(["systemctl", "daemon-reload"], timeout=300)
    runner.run(["systemctl", "isolate", "crfs-stage.target"], timeout=900)
    # What users run as services of their own: isolate leaves it alone.
    runner.run(["systemctl", "stop", _OF_USERS], timeout=900)
    # isolate waits for the target that it starts, and for none that it stops.
    end = time.monotonic() + _STOPPING
    while stopping := probe.stopping_units():
        if time.monotonic() > end:
            raise LayoutError(
                f"Services do not stop: {', '.join(stopping)}.",
                data=CARD_UNTOUCHED,
                advice="stop them by hand, then 'sudo crfs resume'",
            )
        time.sleep(_PAUSE)
    # Whoever has logged in meanwhile.
    runner.run(["systemctl", "stop", _OF_USERS], timeout=900)


def start_all() -> None:
    """Start what the system starts at a boot; does not wait for it."""
    runner.run(["systemctl", "isolate", "--no-block", "default.target"], timeout=300)
    if of_users := [f"user@{number}.service" for number in sorted(_users())]:
        runner.run(["systemctl", "start", "--no-block", *of_users], timeout=300)


def _users() -> set[int]:
    """Those who are logged in, and those whose services run without that."""
    lingering = {path.name for path in _LINGER.glob("*")}
    known = {entry.pw_uid for entry in pwd.getpwall() if entry.pw_name in lingering}
    return known | {int(path.name) for path in _LOGGED_IN.glob("*") if path.name.isdecimal()}
