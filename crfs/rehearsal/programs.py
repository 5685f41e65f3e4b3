"""Programs of the host that a rehearsal needs: find them, start them, end them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from crfs.errors import RehearsalError

START_S = 15.0


def program(name: str, package: str) -> str:
    """The path of a program; RehearsalError names the package to install."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        raise RehearsalError(f"{name} is not installed.", advice=f"apt-get install {package}")
    return path


def start_serving(
    arguments: Sequence[str], log: Path, appear: Sequence[Path], cwd: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start a program that makes the sockets `appear` when it is ready, and wait for them.

    What it says is added to `log`. Raises RehearsalError if it ends, or is not ready in 15 s.
    """
    for socket in appear:
        socket.unlink(missing_ok=True)
    with log.open("ab") as said:
        process = subprocess.Popen(
            arguments,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    until = time.monotonic() + START_S
    while not all(socket.exists() for socket in appear):
        if process.poll() is not None or time.monotonic() > until:
            end_process_group(process)
            raise RehearsalError(
                f"{arguments[0]} did not start:\n{log.read_text(errors='replace')}"
            )
        time.sleep(0.02)
    return process


def run_limited(arguments: Sequence[str], console: Path, timeout: float) -> bool:
    """Run a program in a session of its own; end all of it if `timeout` passes. In time?"""
    with console.open("wb") as log:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        finally:
            end_process_group(process)
    return True


def end_process_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that leads its own session, and everything that it started there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
