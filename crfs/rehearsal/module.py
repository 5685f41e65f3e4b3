"""The harness's handle on a simulated HSM6: start it, give it orders, end it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from crfs.errors import RehearsalError
from crfs.rehearsal.hsm import Hsm
from crfs.rehearsal.programs import end_process_group

START_S = 15.0


class HsmProcess:
    """A module in a process of its own. `line` is the socket that a Pi's serial line goes to.

    Use as a context manager, or call `start()` and `stop()`. The state outlives the process.
    """

    def __init__(self, folder: Path, name: str = "hsm") -> None:
        """`folder` gets NAME.json, the state, and the sockets; its path has to be short."""
        self.state_file = folder / f"{name}.json"
        self.line = folder / f"{name}-line"
        self._control = folder / f"{name}-control"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the module's process; returns when it answers."""
        if self._process is not None:
            return
        self._control.unlink(missing_ok=True)
        command = [sys.executable, "-m", "crfs.rehearsal.hsm", "--state", str(self.state_file)]
        command += ["--line", str(self.line), "--control", str(self._control)]
        package_parent = Path(__file__).resolve().parents[2]
        self._process = subprocess.Popen(command, cwd=package_parent, start_new_session=True)
        until = time.monotonic() + START_S
        while not self._control.exists():
            if self._process.poll() is not None or time.monotonic() > until:
                self.stop()
                raise RehearsalError("The HSM simulator did not start.")
            time.sleep(0.05)

    def stop(self) -> None:
        """End the process: the Pi's line is dead from now on."""
        if self._process is not None:
            end_process_group(self._process)
            self._process = None

    def __enter__(self) -> HsmProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def order(self, do: str, **values: Any) -> dict[str, Any]:
        """Give an order (see Hsm.control) and return the module's state without its secret."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(START_S)
            connection.connect(str(self._control))
            connection.sendall(json.dumps({"do": do, **values}).encode() + b"\n")
            with connection.makefile() as answers:
                reply: dict[str, Any] = json.loads(answers.readline())
        if "error" in reply:
            raise RehearsalError(f"The HSM simulator refuses {do!r}: {reply['error']}")
        return reply

    def set(self, **values: Any) -> dict[str, Any]:
        """Set fields of its state, for instance answering="silent" or card="card-2"."""
        return self.order("set", **values)

    def counter(self, name: str) -> int:
        """How often something happened: "unlocks", "locks", "random", "refused", "tampers".

        "busy_us" is how long it took to answer the Pi, in microseconds, all in all.
        """
        counters: dict[str, int] = self.order("get")["counters"]
        return counters.get(name, 0)

    def unseal(self, blob: bytes) -> bytes:
        """Open a sealed blob in this process, past all modes. For looking at results only."""
        return Hsm(self.state_file).unseal(blob)
