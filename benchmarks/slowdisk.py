"""Plug an image into user-mode Linux as a slow disk.

Three processes in a row: user-mode Linux speaks vhost-user with qemu-storage-daemon, which speaks
NBD with the process that keeps the pace (`nbd`). All of them are outside the machine that is
measured.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from benchmarks.devices import Speed
from benchmarks.nbd import Counters
from crfs.errors import RehearsalError
from crfs.rehearsal.programs import end_process_group, program, start_serving

BRIDGE = "qemu-storage-daemon"


class SlowDisk:
    """An image that is plugged in while the `with` block lasts; `socket` is where.

    The counters go on over reboots of the machine that it is plugged into.
    """

    def __init__(self, image: Path, speed: Speed) -> None:
        self.image = image
        self._speed = speed
        # Paths of sockets have to be short.
        self._work = Path(tempfile.mkdtemp(prefix="crfs-disk-"))
        self.socket = self._work / "vhost"
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> SlowDisk:
        line, counters = self._work / "nbd", self._work / "counters"
        try:
            self._start(
                [
                    *(sys.executable, "-m", "benchmarks.nbd"),
                    *("--image", str(self.image.resolve()), "--line", str(line)),
                    *("--counters", str(counters), "--speed", json.dumps(asdict(self._speed))),
                ],
                line,
            )
            node = f"driver=nbd,node-name=disk,discard=unmap,server.type=unix,server.path={line}"
            export = "type=vhost-user-blk,id=disk,node-name=disk,writable=on"
            self._start(
                [
                    *(program(BRIDGE, "qemu-system-common"), "--blockdev", node),
                    *("--export", f"{export},addr.type=unix,addr.path={self.socket}"),
                ],
                self.socket,
            )
        except RehearsalError:
            self.__exit__()
            raise
        return self

    def _start(self, arguments: list[str], appears: Path) -> None:
        """Start a process that makes the socket `appears` when it is ready."""
        project = Path(__file__).resolve().parents[1]
        process = start_serving(arguments, self._work / "log", [appears], cwd=project)
        self._processes.append(process)

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            end_process_group(process)
        shutil.rmtree(self._work, ignore_errors=True)

    def counters(self) -> Counters:
        """What has passed so far."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self._work / "counters"))
            with connection.makefile() as lines:
                return Counters(**json.loads(lines.readline()))
