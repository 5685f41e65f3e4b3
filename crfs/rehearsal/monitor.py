"""Orders to a running QEMU over its monitor socket (QMP): plug a stick in, pull it out."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

from crfs.errors import RehearsalError

ANSWER_S = 30.0
UNPLUG_S = 30.0


class Monitor:
    """One conversation with QEMU; use as a context manager."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(ANSWER_S)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("r")
        self._lines.readline()  # the greeting
        self.order("qmp_capabilities")

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._socket.close()

    def order(self, execute: str, **arguments: Any) -> Any:
        """Carry out one QMP command and return its result; RehearsalError if QEMU refuses."""
        message = {"execute": execute, "arguments": arguments}
        self._socket.sendall(json.dumps(message).encode() + b"\n")
        while line := self._lines.readline():
            reply = json.loads(line)
            if "error" in reply:
                raise RehearsalError(f"QEMU refuses {execute}: {reply['error']['desc']}")
            if "return" in reply:
                return reply["return"]
        raise RehearsalError("QEMU has ended.")

    def unplug_stick(self) -> None:
        """Pull the stick out; returns when it is gone."""
        self.order("device_del", id="stick")
        until = time.monotonic() + UNPLUG_S
        while any(item["qdev"].endswith("stick") for item in self._block_devices()):
            if time.monotonic() > until:
                raise RehearsalError("The stick could not be pulled out.")
            time.sleep(0.1)

    def plug_stick(self, image: Path, serial: str) -> None:
        """Plug a stick in."""
        file = {"driver": "file", "filename": str(image)}
        self.order("blockdev-add", driver="raw", file=file, **{"node-name": "stickdrive"})
        self.order(
            "device_add", driver="usb-storage", id="stick", drive="stickdrive", serial=serial
        )

    def _block_devices(self) -> list[dict[str, str]]:
        return [item for item in self.order("query-block") if item.get("qdev")]
