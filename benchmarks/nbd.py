"""A disk that is as slow as a card or a stick, counts what passes, and speaks NBD.

    python -m benchmarks.nbd --image FILE --line SOCKET --counters SOCKET --speed '{...}'

One request is served after the other, as SD cards and plain USB sticks do it. A read or a write
takes as long as its bytes take, but no less than one operation takes; a flush or a discard takes
one write operation, whatever it covers. Reads, or writes, that lie side by side and wait at the
same time are one operation: before a real card or stick, which takes one or two requests at a
time, the kernel's queue would have made them one. Here it cannot, since a virtio disk takes all
that there are. Whoever connects to the second socket gets the counters as one line of JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import select
import socket
import struct
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.devices import Speed

# https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md
OPTION_MAGIC = b"IHAVEOPT"
OPTION_REPLY = 0x3E889045565A9
REQUEST_MAGIC = 0x25609513
REPLY_MAGIC = 0x67446698
FIXED_NEWSTYLE, NO_ZEROES = 1, 2
ABORT, GO = 2, 7
ACKNOWLEDGE, INFO, UNSUPPORTED = 1, 3, 0x80000001
INFO_EXPORT, INFO_BLOCK_SIZE = 0, 3
HAS_FLAGS, SEND_FLUSH, SEND_TRIM = 1, 4, 32
READ, WRITE, DISCONNECT, FLUSH, TRIM = range(5)
INVALID = 22
LARGEST = 4 << 20

# A process is woken a little late. What it oversleeps, up to this many seconds, is not lost.
CREDIT_S = 0.005

KEEP_SIZE, PUNCH_HOLE = 1, 2


@dataclass
class Counters:
    """What has passed since the device was plugged in."""

    bytes_read: int = 0
    bytes_written: int = 0
    bytes_discarded: int = 0
    reads: int = 0
    writes: int = 0
    busy_s: float = 0.0


class Pace:
    """When a device of a given speed is done with a request."""

    def __init__(self, speed: Speed) -> None:
        self._speed = speed
        self._free_at = 0.0
        self._run = 0  # bytes of the requests that are one operation until now
        self._run_of = (-1, -1)  # kind of the next of them, and where it would begin
        self.busy_s = 0.0

    def done_at(
        self, kind: int, offset: int, size: int, now: float, *, queued: bool = False
    ) -> float:
        """The time at which a request that is taken up at `now` is done; in seconds, as `now`.

        `queued` is whether it was there when the one before it was taken up.
        """
        # Who writes waits for nobody, and what is late there is the emulation.
        waited = queued or (kind == WRITE and now - CREDIT_S <= self._free_at)
        if not (waited and self._run_of == (kind, offset)):
            self._run = 0
        if kind in (READ, WRITE):
            cost = self._takes(kind, self._run + size) - self._takes(kind, self._run)
            self._run, self._run_of = self._run + size, (kind, offset + size)
        else:
            cost = 1 / self._speed.write_iops
            self._run_of = (-1, -1)
        self._free_at = max(self._free_at, now - CREDIT_S) + cost
        self.busy_s += cost
        return self._free_at

    def _takes(self, kind: int, size: int) -> float:
        """How long one operation of so many bytes takes."""
        if not size:
            return 0.0
        speed = self._speed
        if kind == READ:
            return max(size / speed.read_bps, 1 / speed.read_iops)
        return max(size / speed.write_bps, 1 / speed.write_iops)


class Disk:
    """An image, its pace and its counters."""

    def __init__(self, image: Path, speed: Speed) -> None:
        self._file = os.open(image, os.O_RDWR | os.O_CLOEXEC)
        self.size = os.fstat(self._file).st_size
        self.counters = Counters()
        self._pace = Pace(speed)
        self._libc = ctypes.CDLL(None, use_errno=True)

    def carry_out(self, kind: int, offset: int, size: int, data: bytes, *, queued: bool) -> bytes:
        """Do one request in the time that it takes; what was read. OSError if it is invalid."""
        done_at = self._pace.done_at(kind, offset, size, time.monotonic(), queued=queued)
        counters = self.counters
        read = b""
        if kind == READ:
            read = os.pread(self._file, size, offset)
            counters.bytes_read += size
            counters.reads += 1
        elif kind == WRITE:
            os.pwrite(self._file, data, offset)
            counters.bytes_written += size
            counters.writes += 1
        elif kind == TRIM:
            self._punch(offset, size)
            counters.bytes_discarded += size
        elif kind != FLUSH:
            raise OSError(INVALID, "no such request")
        counters.busy_s = self._pace.busy_s
        time.sleep(max(0.0, done_at - time.monotonic()))
        return read

    def _punch(self, offset: int, size: int) -> None:
        where = ctypes.c_long(offset), ctypes.c_long(size)
        if self._libc.fallocate(self._file, KEEP_SIZE | PUNCH_HOLE, *where) != 0:
            raise OSError(ctypes.get_errno(), "fallocate")


def receive(connection: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes; ConnectionError if the other end hangs up before."""
    data = bytearray(size)
    view = memoryview(data)
    while view:
        got = connection.recv_into(view)
        if not got:
            raise ConnectionError("hung up")
        view = view[got:]
    return bytes(data)


def negotiate(connection: socket.socket, size: int) -> None:
    """Agree on the one export, of `size` bytes. ConnectionError if the other end does not want."""
    connection.sendall(b"NBDMAGIC" + OPTION_MAGIC + struct.pack(">H", FIXED_NEWSTYLE | NO_ZEROES))
    receive(connection, 4)

    def reply(option: int, kind: int, payload: bytes = b"") -> None:
        head = struct.pack(">QIII", OPTION_REPLY, option, kind, len(payload))
        connection.sendall(head + payload)

    while True:
        magic, option, length = struct.unpack(">8sII", receive(connection, 16))
        receive(connection, length)
        if magic != OPTION_MAGIC or option == ABORT:
            raise ConnectionError("not wanted")
        if option == GO:
            flags = HAS_FLAGS | SEND_FLUSH | SEND_TRIM
            reply(option, INFO, struct.pack(">HQH", INFO_EXPORT, size, flags))
            reply(option, INFO, struct.pack(">HIII", INFO_BLOCK_SIZE, 512, 4096, LARGEST))
            reply(option, ACKNOWLEDGE)
            return
        reply(option, UNSUPPORTED)


@dataclass
class Request:
    """One request; `queued` is whether it was there when another one was taken up."""

    kind: int
    handle: int
    offset: int
    size: int
    data: bytes
    queued: bool = False

    @property
    def end(self) -> int:
        return self.offset + self.size


def side_by_side(waiting: list[Request]) -> list[Request]:
    """Take out what has waited longest, and what lies before and behind it; in their order."""
    alike = [one for one in waiting if one.kind == waiting[0].kind]
    alike.sort(key=lambda one: one.offset)
    begin = alike.index(waiting[0])
    end = begin + 1
    while begin and alike[begin - 1].end == alike[begin].offset:
        begin -= 1
    while end < len(alike) and alike[end - 1].end == alike[end].offset:
        end += 1
    taken = alike[begin:end]
    for one in taken:
        waiting.remove(one)
    return taken


def transmit(connection: socket.socket, disk: Disk) -> None:
    """Serve requests until the other end has had enough."""
    waiting: list[Request] = []
    taken: list[Request] = []
    more = True
    while True:
        while more and (not (waiting or taken) or select.select([connection], [], [], 0)[0]):
            head = receive(connection, 28)
            magic, _, kind, handle, offset, size = struct.unpack(">IHHQQI", head)
            if magic != REQUEST_MAGIC or kind == DISCONNECT:
                more = False
                break
            data = receive(connection, size) if kind == WRITE else b""
            waiting.append(Request(kind, handle, offset, size, data))
        if not (waiting or taken):
            return
        taken = taken or side_by_side(waiting)
        one = taken.pop(0)
        for other in (*waiting, *taken):
            other.queued = True
        error = 0
        try:
            read = disk.carry_out(one.kind, one.offset, one.size, one.data, queued=one.queued)
        except OSError as problem:
            error, read = problem.errno or INVALID, b""
        connection.sendall(struct.pack(">IIQ", REPLY_MAGIC, error, one.handle) + read)


def listen(path: Path) -> socket.socket:
    """A listening socket at `path`."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener


def tell_counters(listener: socket.socket, disk: Disk) -> None:
    """Tell whoever connects what has passed."""
    while True:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(json.dumps(asdict(disk.counters)).encode() + b"\n")


def main() -> None:
    """Command line entry: serve until the process is ended."""
    parser = argparse.ArgumentParser(description="A slow disk.")
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--line", type=Path, required=True)
    parser.add_argument("--counters", type=Path, required=True)
    parser.add_argument("--speed", type=json.loads, required=True)
    arguments = parser.parse_args()
    disk = Disk(arguments.image, Speed(**arguments.speed))
    teller = threading.Thread(
        target=tell_counters, args=(listen(arguments.counters), disk), daemon=True
    )
    teller.start()
    listener = listen(arguments.line)
    while True:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(ConnectionError):
            negotiate(connection, disk.size)
            transmit(connection, disk)


if __name__ == "__main__":
    main()
