"""What a rehearsal shows while it runs: its own steps, and the last thing that the Pi said."""

from __future__ import annotations

import re
import shutil
import sys
import threading
import time
from pathlib import Path

QUIET_S = 10.0
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07|[\x00-\x08\x0b-\x1f]")


class Display:
    """On a terminal one line is kept up to date; elsewhere a line comes now and then."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._live = sys.stdout.isatty()
        self._lock = threading.Lock()
        self._last = 0.0
        self.muted = False  # while a machine's question is answered, not a person's

    def say(self, text: str) -> None:
        """Show a step of the rehearsal."""
        with self._lock:
            self._clear()
            print(f"[{self._clock()}] {text}", flush=True)

    def pi_says(self, line: str) -> None:
        """Show what the Pi said on its console; not every line where lines add up."""
        text = _ESCAPES.sub("", line).strip()
        if self.muted or not text or text.startswith("@"):
            return
        with self._lock:
            if self._live:
                width = shutil.get_terminal_size().columns - 1
                print(f"\r\x1b[K{f'[{self._clock()}]   {text}'[:width]}", end="", flush=True)
            elif time.monotonic() - self._last >= QUIET_S:
                self._last = time.monotonic()
                print(f"[{self._clock()}]   {text}", flush=True)

    def result(self, lsblk: str, *, ok: bool, where: Path) -> None:
        """Show how it ended."""
        if lsblk:
            self.say(f"$ lsblk\n{lsblk}")
        self.say(f"The rehearsal {'succeeded' if ok else 'did not succeed'}; report: {where}")

    def _clear(self) -> None:
        if self._live:
            print("\r\x1b[K", end="")

    def _clock(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        return f"{minutes:2d}:{seconds:02d}"
