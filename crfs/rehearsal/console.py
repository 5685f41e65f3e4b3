"""A serial console: everything it says goes to a log; a caller may wait for words and type."""

from __future__ import annotations

import codecs
import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from crfs.errors import RehearsalError

CHUNK = 1 << 16
SHOWN_TAIL = 2000


class ConsoleTimeout(RehearsalError):
    """What was waited for was not said in time."""


class ConsoleClosed(RehearsalError):
    """The Pi's power went off, or it ended by itself, while something was waited for."""


class Console:
    """One boot's console. Its thread always reads, so that the Pi never waits for a reader."""

    def __init__(self, line: socket.socket, log: Path, on_line: Callable[[str], None]) -> None:
        """`log` is appended to; `on_line` is called, in the thread, with each line of text."""
        self._socket = line
        self._log = log
        self._on_line = on_line
        self._buffer = ""
        self._closed = False
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        part = ""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        with self._log.open("ab", buffering=0) as log:
            while True:
                try:
                    data = self._socket.recv(CHUNK)
                except OSError:
                    data = b""
                if not data:
                    break
                log.write(data)
                text = decoder.decode(data)
                with self._news:
                    self._buffer += text.replace("\r", "")
                    self._news.notify_all()
                # A progress line is written over itself: each time is a line to look at.
                *lines, part = re.split(r"[\r\n]+", part + text)
                for line in lines:
                    self._on_line(line)
        with self._news:
            self._closed = True
            self._news.notify_all()

    def expect(self, pattern: str, timeout: float) -> re.Match[str]:
        """Wait until the text not yet consumed matches `pattern` (multi-line); consume up to it.

        Raises ConsoleTimeout after `timeout` seconds, ConsoleClosed if the Pi ends before.
        """
        until = time.monotonic() + timeout
        compiled = re.compile(pattern, re.MULTILINE)
        with self._news:
            while True:
                if match := compiled.search(self._buffer):
                    self._buffer = self._buffer[match.end() :]
                    return match
                tail = self._buffer[-SHOWN_TAIL:]
                if self._closed:
                    raise ConsoleClosed(f"The Pi ended before it said {pattern!r}:\n{tail}")
                left = until - time.monotonic()
                if left <= 0:
                    raise ConsoleTimeout(
                        f"The Pi did not say {pattern!r} within {timeout:.0f} s:\n{tail}"
                    )
                self._news.wait(left)

    def send(self, text: str) -> None:
        """Type `text`. A Pi that has ended does not mind."""
        with contextlib.suppress(OSError):
            self._socket.sendall(text.encode())

    def close(self) -> None:
        """Wait until all that was said is in the log, and hang up."""
        self._thread.join(timeout=5)
        self._socket.close()
