"""crfs itself: a virtual Pi on slow disks encrypts its root, with all its reboots."""

from __future__ import annotations

import base64
import contextlib
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.devices import Profile
from benchmarks.figures import longest_silence
from benchmarks.memory import SAMPLER, PeakMemory
from benchmarks.nbd import Counters
from benchmarks.slowdisk import SlowDisk
from crfs.errors import RehearsalError
from crfs.rehearsal.lawful import LAWFUL
from crfs.rehearsal.layout import copy_sparse, make_empty
from crfs.rehearsal.manifest import Manifest, compare, read_root
from crfs.rehearsal.module import HsmProcess
from crfs.rehearsal.pi import ConsoleClosed, VirtualPi
from crfs.rehearsal.rehearse import SEALED_KEY, UNIT

PHASE_S = 3600.0
MIGRATION_BOOTS = 6
REPEATS = 5
BOOTS = 2
DONE = "until test -e /var/lib/crfs/report.json -a ! -e /boot/firmware/crfs; do sleep 0.2; done"
# Processor time of ten runs, as the shell tells it: user and system.
TIMED = "TIMEFORMAT='%U %S'; time for i in 1 2 3 4 5 6 7 8 9 10; do {command} >/dev/null; done"


def run_crfs(
    card: Path, truth: Manifest, profile: Profile, folder: Path, manifest_s: float
) -> dict[str, Any]:
    """Encrypt a copy of `card`; what it took. `truth` is what is on its root.

    `manifest_s` is how long, at most, reading the encrypted root may take afterwards.
    """
    memory = PeakMemory()
    with _plugged(card, profile, folder, memory) as run:
        key = run.all()
    found = read_root(run.pi.card, key=key, timeout=manifest_s)[0]
    differences = compare(truth, found, LAWFUL)
    for image in (run.card.image, run.stick.image):
        image.unlink()
    return {
        **run.result,
        "memory": asdict(memory),
        "differences": len(differences),
        "difference_list": differences[:20],
    }


def run_first_phase(card: Path, profile: Profile, folder: Path) -> dict[str, Any]:
    """Only the copy to the stick and its comparison, up to reboot 1: time and memory."""
    memory = PeakMemory()
    with _plugged(card, profile, folder, memory) as run:
        run.pi.power_on()
        run.pi.login()
        seconds = run.first_phase()
    return {"first_phase_s": seconds, "memory": asdict(memory)}


@contextlib.contextmanager
def _plugged(card: Path, profile: Profile, folder: Path, memory: PeakMemory) -> Iterator[_Run]:
    """A virtual Pi with a copy of `card`, a blank stick and an HSM, everything new."""
    folder.mkdir(parents=True, exist_ok=True)
    own, stick = folder / "card.img", folder / "stick.img"
    (folder / "serial.log").unlink(missing_ok=True)
    (folder / "hsm.json").unlink(missing_ok=True)
    copy_sparse(card, own)
    make_empty(stick, 2 * card.stat().st_size)
    with (
        HsmProcess(folder) as hsm,
        SlowDisk(own, profile.card) as slow_card,
        SlowDisk(stick, profile.stick) as slow_stick,
        VirtualPi(
            folder,
            own,
            stick=stick,
            hsm=hsm,
            served={own: slow_card.socket, stick: slow_stick.socket},
            on_line=memory.hear,
        ) as pi,
    ):
        yield _Run(pi, hsm, slow_card, slow_stick)


class _Run:
    """One migration, from the first boot to the boot after it."""

    def __init__(self, pi: VirtualPi, hsm: HsmProcess, card: SlowDisk, stick: SlowDisk) -> None:
        self.pi = pi
        self.hsm = hsm
        self.card = card
        self.stick = stick
        self.result: dict[str, Any] = {}

    def all(self) -> bytes:
        """Boot, measure, encrypt, measure, boot again, power off; the key of the card."""
        result = self.result
        result["plain_boot_s"] = self._quickest_boot()
        result["used_bytes"] = 1024 * int(self.pi.check("df -k --output=used / | tail -n 1"))
        self._migrate()
        result["status_cost"] = self._status_cost()
        text = self.pi.check("sudo cat /var/lib/crfs/report.json")
        report = json.loads(text)
        result["steps"] = report["steps"]
        result["reboots_s"] = result["total_s"] - sum(one["seconds"] for one in result["steps"])
        result["cipher"] = report["cipher"]
        sealed = base64.b64decode(self.pi.check(f"sudo base64 {SEALED_KEY}"))
        self.pi.check("sudo crfs verify")
        self.pi.reboot()
        result["encrypted_boot_s"] = self._quickest_boot()
        result["unlock_adds_s"] = result["encrypted_boot_s"] - result["plain_boot_s"]
        self.pi.shutdown()
        return self.hsm.unseal(sealed)

    def _quickest_boot(self) -> float:
        """Boot and log in some times; the seconds of the quickest."""
        times = [self._boot()]
        while len(times) < BOOTS:
            self.pi.reboot()
            times.append(self._boot())
        return min(times)

    def _boot(self) -> float:
        """Power on and log in; the seconds up to the prompt, without those of the simulated HSM."""
        before = self.hsm.counter("busy_us")
        boot = self.pi.power_on()
        self.pi.login()
        return boot.login_s - (self.hsm.counter("busy_us") - before) / 1e6

    def _status_cost(self) -> float:
        """Processor time of `crfs status`, as a multiple of that of a Python that does nothing."""
        times = {}
        for command in ("python3 -c pass", "crfs status"):
            script = TIMED.format(command=command)
            taken = []
            for _ in range(REPEATS):
                text = self.pi.check(f'sudo bash -c "{script}"')
                taken.append(sum(float(word) for word in text.split()[-2:]))
            times[command] = statistics.median(taken)
        return times["crfs status"] / times["python3 -c pass"]

    def _migrate(self) -> None:
        """From the command to the end of phase 3."""
        pi = self.pi
        before = self._counters()
        began = time.monotonic()
        first_phase_s = self.first_phase()
        for _ in range(MIGRATION_BOOTS):
            pi.power_on()
            try:
                pi.login(PHASE_S)
                pi.run(SAMPLER.format(unit=UNIT), wait=False)
                pi.check(DONE, timeout=PHASE_S)
                break
            except ConsoleClosed:
                self._ended()
        else:
            raise RehearsalError(
                f"After {MIGRATION_BOOTS} boots it is still not done; see {pi.log}."
            )
        ended = time.monotonic()
        self.result |= {
            "total_s": ended - began,
            "service_gap_s": longest_silence(pi.record_times, began),
            "first_phase_s": first_phase_s,
            "written": self._since(before, "bytes_written"),
            "discarded": self._since(before, "bytes_discarded"),
        }

    def _counters(self) -> dict[str, Counters]:
        """What has passed through card and stick so far."""
        return {"card": self.card.counters(), "stick": self.stick.counters()}

    def _since(self, before: dict[str, Counters], what: str) -> dict[str, int]:
        """How much of one kind has passed since then."""
        return {
            name: getattr(now, what) - getattr(before[name], what)
            for name, now in self._counters().items()
        }

    def first_phase(self) -> float:
        """From the command to reboot 1; how long that takes, in seconds."""
        began = time.monotonic()
        self.pi.run(SAMPLER.format(unit=UNIT), wait=False)
        disks = f"--disk {self.pi.board.card} --usb {self.pi.board.stick}"
        self.pi.run(f"sudo crfs encrypt {disks} --yes", wait=False)
        self._ended()
        return time.monotonic() - began

    def _ended(self) -> None:
        """Wait until the Pi reboots by itself."""
        boot = self.pi.wait_exit(PHASE_S)
        if boot.ended != "reboot":
            raise RehearsalError(f"Boot {boot.number} ended in {boot.ended}; see {self.pi.log}.")
