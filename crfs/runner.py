"""The one door through which crfs starts commands.

`run` is for effects (it changes something), `query` for facts (it only reads). Both take an
argument list, never a shell line; give the child a small environment and a closed standard input;
limit its time; and keep its whole standard error for the message of a failure. Secrets go in
through `stdin` only: never through arguments or the environment.
"""

from __future__ import annotations

import io
import logging
import os
import threading
from collections.abc import Callable, Sequence

import sh

from crfs.errors import UNCHANGED, CommandError

PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
ENVIRONMENT = {"PATH": PATH, "LC_ALL": "C.UTF-8", "LANG": "C.UTF-8"}

# sh logs every command with the first bytes of its standard input; those can be a key.
for _name in ("sh", "sh.command", "sh.command.process", "sh.stream_bufferer", "sh.streamreader"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


def run(
    argv: Sequence[str],
    *,
    stdin: bytes | None = None,
    timeout: float = 120,
    ok: Sequence[int] = (0,),
    data: str = "The step can be tried again.",
    heard: Callable[[bytes], None] | None = None,
) -> bytes:
    """Run a command that changes something; return its standard output.

    `timeout` is in seconds. `ok` lists the exit codes that count as success. Raises CommandError
    otherwise, with the command, how it ended, its standard error and `data` (what a failure means
    for the data). `heard` is given the complete lines of the standard output while the command
    runs, by another thread; nothing of them is kept or returned.
    """
    out = _Lines(heard) if heard else io.BytesIO()
    _start(argv, stdin, timeout, ok, data, out)
    return out.getvalue()


def query(argv: Sequence[str], *, timeout: float = 60, ok: Sequence[int] = (0,)) -> str:
    """Run a command that only reads; return its standard output as text.

    Raises CommandError like `run`.
    """
    out = io.BytesIO()
    _start(argv, None, timeout, ok, UNCHANGED, out)
    return out.getvalue().decode(errors="surrogateescape")


def _start(
    argv: Sequence[str],
    stdin: bytes | None,
    timeout: float,
    ok: Sequence[int],
    data: str,
    out: io.BytesIO,
) -> None:
    err = io.BytesIO()
    shown = " ".join(argv)
    try:
        command = sh.Command(find(argv[0]))
        with open(os.devnull, "rb") as nothing:
            command(
                *argv[1:],
                _in=stdin if stdin is not None else nothing,
                _out=out,
                _out_bufsize=65536,
                _err=err,
                _env=ENVIRONMENT,
                _cwd="/",
                _timeout=timeout,
                _ok_code=list(ok),
                _tty_in=False,
                _tty_out=False,
                _decode_errors="replace",
            )
    except sh.CommandNotFound:
        raise CommandError(
            f"The command {argv[0]} is not installed.",
            data=data,
            advice=f"install the package that has {argv[0]}, then try again",
        ) from None
    except sh.TimeoutException:
        raise CommandError(
            f"'{shown}' did not end within {timeout:.0f} s.", data=data, advice=_advice(err)
        ) from None
    except sh.ErrorReturnCode as failure:
        code = failure.exit_code
        ending = f"was ended by signal {-code}" if code < 0 else f"failed with exit code {code}"
        raise CommandError(
            f"'{shown}' {ending}.", data=data, advice=_advice(err), status=code
        ) from None
    except (KeyboardInterrupt, SystemExit):
        # sh leaves its time limit running, and Python would not end before that does.
        for thread in threading.enumerate():
            if isinstance(thread, threading.Timer):
                thread.cancel()
        raise


class _Lines(io.BytesIO):
    """A standard output that hands its lines on as they come, and keeps none."""

    def __init__(self, heard: Callable[[bytes], None]) -> None:
        super().__init__()
        self._heard = heard
        self._rest = b""

    def write(self, text: bytes) -> int:  # type: ignore[override] # sh has nothing but bytes
        *lines, self._rest = (self._rest + text).split(b"\n")
        for line in lines:
            self._heard(line)
        return len(text)


def find(name: str) -> str:
    """The absolute path of a command, looked up on the fixed PATH only; raises CommandError."""
    if "/" in name:
        return name
    for folder in PATH.split(":"):
        path = f"{folder}/{name}"
        if os.access(path, os.X_OK):
            return path
    raise CommandError(
        f"The command {name} is not installed.",
        data=UNCHANGED,
        advice=f"install the package that has {name}, then try again",
    )


def _advice(err: io.BytesIO) -> str:
    said = err.getvalue().decode(errors="replace").strip()
    return f"read what the command said: {said}" if said else "look into 'journalctl -b'"
