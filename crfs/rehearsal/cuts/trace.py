"""The worker under observation, inside the cheap Pi: every effect is told, and one may be cut.

`python -m crfs.rehearsal.cuts.trace FAULT.json PIDFILE` runs `crfs run`. Effects are wrapped from
outside: commands, journal writes, writes to the boot partition, pieces of block copies and the
loops over trees. Each has a key "STEP|WHAT|N": the N-th effect of this kind in that step.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from crfs import blocks, bootfiles, dress, fatfile, proof, runner, trees, worker
from crfs.errors import CommandError
from crfs.journal import Journal
from crfs.rehearsal.layout import MIB
from crfs.steps import base, finish

LINE = "/dev/ttyS3"
STICK = "vdb"  # of the storage daemon
BETWEEN = "between"  # the step's name in a key, where none is at work
PLACES = ("before", "middle", "after")
# Commands of which the second word says what they do; of the others it is the last.
_VERBS = ("cryptsetup", "systemctl", "journalctl", "chroot", "sh")


@dataclass(frozen=True)
class Fault:
    """What is to happen at one effect. `key` empty: nothing.

    `act` is "cut" (power), "kill" or "term" (the worker and its children get that signal), "fail"
    (the effect fails as if the device did), "unplug" (the stick is pulled). `delay` is in seconds
    from the effect's beginning, for the place "middle".
    """

    key: str = ""
    place: str = "before"
    delay: float = 0.0
    act: str = "cut"


class Tracer:
    """Tells the harness of effects, and lets the fault happen."""

    def __init__(self, fault: Fault, line: int, orders: Path) -> None:
        """`orders` is where the fault came from: it happens once in a boot, not at each start."""
        self.fault = fault
        self._orders = orders
        self.step = BETWEEN
        self._line = line
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def tell(self, text: str) -> None:
        """One line to the harness."""
        os.write(self._line, text.encode() + b"\n")

    @contextlib.contextmanager
    def effect(self, what: str) -> Iterator[None]:
        """Around one effect."""
        with self._lock:
            kind = f"{self.step}|{what}"
            self._counts[kind] += 1
            key = f"{kind}|{self._counts[kind]}"
        wanted = self.fault.place if key == self.fault.key else ""
        if wanted == "before":
            self.act()
        timer = threading.Timer(self.fault.delay, self.act) if wanted == "middle" else None
        if timer:
            timer.start()
        began = time.monotonic()
        try:
            yield
        finally:
            if timer:
                timer.cancel()
            self.tell(f"EFFECT {time.monotonic() - began:.4f} {key}")
        if wanted == "after":
            self.act()

    def act(self) -> None:
        """Let it happen."""
        self.tell("HIT")
        self._orders.write_text("{}")
        if self.fault.act == "fail":
            raise OSError(5, "Input/output error (simulated)")
        if self.fault.act == "cut":
            self.tell("CUT")
            _wait()
        if self.fault.act == "unplug":
            unplug(STICK)
            return
        code = signal.SIGKILL if self.fault.act == "kill" else signal.SIGTERM
        # The whole control group gets it, as from systemd.
        for child in descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, code)
        os.kill(os.getpid(), code)
        _wait()


def unplug(disk: str) -> None:
    """Take a virtio disk away from the kernel, whatever uses it."""
    device = Path(f"/sys/block/{disk}/device").resolve()
    (device / "driver/unbind").write_text(device.name)


def _wait() -> NoReturn:
    """Until the power is gone."""
    while True:
        time.sleep(60)


def descendants(pid: int) -> list[int]:
    """All processes below one."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            number, _, rest = entry.read_text().partition(" (")
            children.setdefault(int(rest.rpartition(")")[2].split()[1]), []).append(int(number))
    found, pending = [], [pid]
    while pending:
        below = children.get(pending.pop(), [])
        found += below
        pending += below
    return found


def name_of(argv: list[str]) -> str:
    """A command as its effect is called."""
    name = os.path.basename(argv[0])
    if name == "systemctl":
        return " ".join([name, *(word for word in argv[1:3] if not word.startswith("-"))])
    return f"{name} {argv[1] if name in _VERBS else argv[-1]}" if len(argv) > 1 else name


def observe(tracer: Tracer) -> None:
    """Wrap everything that changes something."""

    def wrap(owner: Any, name: str, label: Callable[..., str]) -> None:
        original = getattr(owner, name)

        def wrapped(*args: Any, **values: Any) -> Any:
            with tracer.effect(label(*args)):
                return original(*args, **values)

        setattr(owner, name, wrapped)

    def path_of(path: Path, *_: object) -> str:
        return path.name

    wrap(runner, "run", lambda argv, *_: name_of(list(argv)))
    wrap(Journal, "write", lambda *_: "journal")
    wrap(Journal, "remove", lambda *_: "journal-remove")
    for name in ("replace", "remove", "write_synced", "sync_folder"):
        wrap(fatfile, name, lambda path, *_, verb=name: f"{verb} {path_of(path)}")
    for name in ("arm", "make_default", "make_final", "disarm", "restore", "remove_own"):
        wrap(bootfiles.BootFiles, name, lambda *_, verb=name: verb)
    wrap(blocks, "_write", lambda *_: "piece")
    wrap(blocks, "compare", lambda *_: "compare-blocks")
    wrap(blocks, "grow", lambda *_: "grow")
    for name in ("unlock_tree", "part_links", "copy_flags"):
        wrap(trees, name, lambda *_, verb=name: verb)
    for name in ("prove", "unproven", "compare"):
        wrap(proof, name, lambda *_, verb=name: verb)
    wrap(dress, "dress", lambda *_: "dress")
    wrap(finish, "_fill", lambda *_: "fill")
    _follow_steps(tracer)


def _follow_steps(tracer: Tracer) -> None:
    do_step = worker._do_step

    def followed(context: Any, state: str, step: Any, shown: Any, log: Any) -> None:
        tracer.step = step.id
        try:
            do_step(context, state, step, shown, log)
        finally:
            tracer.step = BETWEEN

    worker._do_step = followed


def scale() -> None:
    """Sizes in proportion to a card of 200 MB, so that every loop turns more than once."""
    blocks.PIECE = MIB // 2
    blocks.SYNC_EVERY = 4 * MIB
    base.ROOM_BYTES = 24 * MIB
    finish._GROW_BY = 40 * MIB


def _start(
    argv: Sequence[str],
    stdin: bytes | None,
    timeout: float,
    ok: Sequence[int],
    data: str,
    out: io.BytesIO,
) -> None:
    """What the runner does, without copying Python's memory for each command.

    That copying takes user-mode Linux five times as long as a small command itself.
    """
    shown = " ".join(argv)
    try:
        done = subprocess.run(
            [runner.find(argv[0]), *argv[1:]],
            input=stdin or b"",
            capture_output=True,
            timeout=timeout,
            env=runner.ENVIRONMENT,
            cwd="/",
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CommandError(
            f"'{shown}' did not end within {timeout:.0f} s.", data=data, advice="'journalctl -b'"
        ) from None
    if done.returncode not in ok:
        raise CommandError(
            f"'{shown}' failed with exit code {done.returncode}.",
            data=data,
            advice=runner._advice(io.BytesIO(done.stderr)),
        )
    out.write(done.stdout)


def main() -> int:
    """Command line entry."""
    orders = Path(sys.argv[1])
    fault = Fault(**json.loads(orders.read_text()))
    Path(sys.argv[2]).write_text(str(os.getpid()))
    scale()
    runner._start = _start
    observe(Tracer(fault, os.open(LINE, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC), orders))
    return worker.main()


if __name__ == "__main__":
    sys.exit(main())
