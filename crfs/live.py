"""What a run tells in this boot: a file in /run that everybody may read, and the lock it holds.

This is all that `crfs status` needs while a run is known, so nothing heavy is imported here.
"""

from __future__ import annotations

import fcntl
import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing `typing` takes longer than everything else here
    from typing import Any

STATUS = "/run/crfs/status.json"
LOCK = "/run/crfs/lock"
# What is known after a run is done and the Pi was rebooted; on the encrypted root.
REPORT = "/var/lib/crfs/report.json"
MOUNTS = "/proc/self/mounts"
# Where a journal may lie, as in cfg_SD_crfs.service.
BOOTS = ("/boot/firmware", "/boot")
JOURNALS = tuple(f"{boot}/crfs/journal.{slot}" for boot in BOOTS for slot in (0, 1))


def write(content: dict[str, Any]) -> None:
    """Let everyone see where the run is; no reason to stop it if /run has no room for that."""
    try:
        os.makedirs(os.path.dirname(STATUS), mode=0o755, exist_ok=True)
        with open(f"{STATUS}.new", "w", encoding="utf-8") as fresh:
            json.dump(content, fresh)
            os.fchmod(fresh.fileno(), 0o644)
        os.rename(f"{STATUS}.new", STATUS)
    except OSError:
        # What was told before does not hold any more; the journal tells less, but the truth.
        if os.path.exists(STATUS):
            os.unlink(STATUS)


def read() -> dict[str, Any]:
    """What the worker last said in this boot; empty if it said nothing."""
    return _read(STATUS)


def read_report() -> dict[str, Any]:
    """The report of the run that encrypted this root; empty if there is none."""
    return _read(REPORT)


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def has_journal() -> bool:
    """Whether a run was begun on this card, and is not done."""
    return any(os.path.exists(path) for path in JOURNALS)


def boot_is_mounted() -> bool:
    """Whether a boot partition is mounted: only there does a missing journal say something."""
    with open(MOUNTS, encoding="utf-8", errors="replace") as file:
        mounted = [line.split(" ")[1:3] for line in file]
    return any([boot, "vfat"] in mounted for boot in BOOTS)


def is_running() -> bool:
    """Whether a worker holds the lock now."""
    try:
        descriptor = os.open(LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def clock(seconds: float) -> str:
    """A duration as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def render(status: dict[str, Any]) -> str:
    """One line of progress."""
    if not status.get("title"):
        return str(status.get("message") or status.get("state") or "")
    left = clock(float(status.get("seconds_left", 0)))
    return (
        f"{status['overall']:5.1f} % in all | {status['title']}: {status['percent']:.0f} % | "
        f"about {left} left"
    )
