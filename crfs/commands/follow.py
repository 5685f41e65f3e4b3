"""Starting the service and following it; the work does not depend on who watches."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from crfs import live, runner
from crfs.commands import common
from crfs.errors import KEPT, BusyError, CommandError, CrfsError, LayoutError
from crfs.model import UNIT, Halt

_ENDED = ("inactive", "failed")


def busy() -> BusyError:
    return BusyError(
        "crfs is at work already.",
        data="That run goes on undisturbed.",
        advice="'sudo crfs status --watch' follows it",
    )


def start() -> None:
    """Have systemd do the work."""
    runner.run(["systemctl", "reset-failed", UNIT], ok=(0, 1))
    runner.run(["systemctl", "start", UNIT], timeout=300)


def follow() -> int:
    """Show the progress until the worker ends; the exit code tells how."""
    print(f"The work runs in {UNIT}; 'journalctl -fu cfg_SD_crfs' shows it too.")
    line = _Line()
    try:
        while (state := _state()) not in _ENDED:
            line.show(live.read())
            time.sleep(1)
        line.show(live.read())
    except KeyboardInterrupt:
        print("\nThe work goes on. 'sudo crfs status --watch' follows it again.")
        return 0
    print()
    try:
        found = common.read_journal()
    except LayoutError:
        found = None  # unmounted already, for the reboot
    if found and found[1].halt:
        raise halted(found[1].halt)
    if state == "failed":
        raise CommandError(
            f"{UNIT} has ended with a failure.",
            data=KEPT,
            advice="read why in 'journalctl -u cfg_SD_crfs', then 'sudo crfs resume'",
        )
    status = live.read()
    print(status.get("message") or "The work has ended; 'sudo crfs status' tells how.")
    return 0


def halted(halt: Halt) -> CrfsError:
    """The error that stopped a run, as the journal keeps it."""
    error = CrfsError(halt.what, data=halt.data, advice=halt.advice)
    error.code = halt.code
    return error


def _state() -> str:
    return runner.query(["systemctl", "is-active", UNIT], ok=(0, 3, 4)).strip()


class _Line:
    """One line that is rewritten on a terminal; elsewhere a new line now and then."""

    def __init__(self, write: Callable[[str], Any] | None = None) -> None:
        self._write = write or sys.stdout.write
        self._terminal = sys.stdout.isatty()
        self._last = ("", -1)

    def show(self, status: dict[str, Any]) -> None:
        if not status:
            return
        text = live.render(status)
        if self._terminal:
            self._write(f"\r\x1b[K{text[:110]}")
        else:
            mark = (str(status.get("step")), int(float(status.get("percent", 0))) // 10)
            if mark == self._last:
                return
            self._last = mark
            self._write(text + "\n")
        sys.stdout.flush()
