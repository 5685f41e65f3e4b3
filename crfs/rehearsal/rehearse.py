"""The rehearsal: a whole migration on a virtual Pi, as a user does it, and a report of it.

report = rehearse(deb=Path("build/crfs_0.1.0_all.deb"), out=Path("build/rehearsal"))
assert report.ok
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crfs import tpm2
from crfs.errors import RehearsalError
from crfs.model import HSM6, TPM2
from crfs.rehearsal.base import CACHE, CARD_BYTES, build_base
from crfs.rehearsal.display import Display
from crfs.rehearsal.graft import graft
from crfs.rehearsal.image import CardOptions, compose_card, compose_stick
from crfs.rehearsal.lawful import LAWFUL
from crfs.rehearsal.layout import copy_sparse, partitions_of
from crfs.rehearsal.life import MARKERS
from crfs.rehearsal.manifest import Manifest, compare, dump, read_root
from crfs.rehearsal.module import HsmProcess
from crfs.rehearsal.pi import Boot, ConsoleClosed, VirtualPi
from crfs.rehearsal.rawsearch import find_in_image
from crfs.rehearsal.tpm import TpmProcess

# The emulated SD card is what people have: the same device names as on a real Pi.
DEFAULT_BOARD = "q35"
RECORDS = "/var/lib/recorder/records"
SEALED_KEY = "/var/lib/zymbit/key.bin.lock"
# A Pi with a TPM has none of it.
ZYMBIT = "/var/lib/zymbit /usr/sbin/zkgrifs /usr/sbin/zklockifs /usr/sbin/zkunlockifs"
DEB_ON_CARD = "/home/pi/crfs.deb"
UNIT = "cfg_SD_crfs"
MAX_BOOTS = 6

# Seconds on the fastest board (see VirtualPi).
INSTALL_S = 120.0
PHASE_S = 900.0
FOLLOW_S = 20

EXT4_MAGIC_AT = 1024 + 0x38
EXT4_MAGIC = b"\x53\xef"


@dataclass
class Report:
    """What came of a rehearsal. `seconds` is the whole time by the host's clock.

    `boots` has for each boot its root device, whether it was a trial, and how it ended.
    `differences` counts the lines of `difference_list`. `markers_found` names the images in which
    a marker string of the root was found, which is as bad as a difference. `hsm_unlocks` counts
    those of a TPM as well.
    """

    ok: bool = False
    board: str = ""
    reboots: int = 0
    boots: list[dict[str, Any]] = field(default_factory=list)
    hsm_unlocks: int = 0
    files_compared: int = 0
    differences: int = 0
    difference_list: list[str] = field(default_factory=list)
    records_acknowledged: int = 0
    records_found: int = 0
    records_whole: bool = False
    markers_found: list[str] = field(default_factory=list)
    verify_code: int = -1
    steps: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    lsblk: str = ""
    problem: str = ""


def rehearse(
    *,
    deb: Path,
    out: Path,
    image: Path | None = None,
    board: str | None = None,
    keep: bool = False,
    boot: str = "/boot/firmware",
    tryboot: bool = True,
    cache: Path = CACHE,
    key: str = HSM6,
) -> Report:
    """Migrate a virtual Pi from plain to encrypted; write out/report.json; return the report.

    `deb` is the crfs package that the user of the virtual Pi installs. `image` is a card image to
    work on a copy of, instead of a made one. `board` is q35 (default), virt or uml. `keep` leaves
    the card and stick images in `out`. `boot` is where the card mounts its FAT. `tryboot` false
    stands for a firmware without one-shot boot. `cache` is where base images are kept. `key` is
    what the key is bound to, HSM6 or TPM2; only q35 has a TPM.

    Raises RehearsalError if the virtual Pi cannot be built or does not do what it should; the
    report is written then as well, with `ok` false and the reason in `problem`.
    """
    if not deb.is_file():
        raise RehearsalError(f"There is no package {deb}.", advice="make deb")
    if image is not None:
        require_card_image(image)
    out.mkdir(parents=True, exist_ok=True)
    with _Rehearsal(board or DEFAULT_BOARD, out, tryboot=tryboot, key=key) as run:
        try:
            run.prepare(deb, image, boot, cache)
            run.migrate()
            run.judge()
        except RehearsalError as error:
            run.report.problem = error.what
            raise
        finally:
            run.write_report(keep=keep)
    return run.report


def require_card_image(image: Path) -> None:
    """Raise RehearsalError unless `image` is a card image: MBR, a FAT, an ext4 root."""
    untouched = f"{image} was only read."
    if not image.is_file():
        raise RehearsalError(f"There is no image {image}.", data=untouched)
    parts = {part.number: part for part in partitions_of(image)}
    size = image.stat().st_size
    if 1 not in parts or 2 not in parts or parts[2].start + parts[2].size > size:
        raise RehearsalError(
            f"{image} is no card image: no partition table with a boot and a root partition in it.",
            data=untouched,
            advice="name an uncompressed image of a whole card",
        )
    with image.open("rb") as file:
        file.seek(parts[1].start)
        boot_sector = file.read(512)
        file.seek(parts[2].start + EXT4_MAGIC_AT)
        magic = file.read(2)
    if b"FAT" not in boot_sector[54:90] or magic != EXT4_MAGIC:
        raise RehearsalError(
            f"{image} is no card image: it needs a FAT and then an ext4 partition.",
            data=untouched,
            advice="name an image of a card with a plain root filesystem",
        )


class _Rehearsal:
    """One run: the images, the HSM, the Pi, and the report as it grows."""

    def __init__(self, board: str, out: Path, *, tryboot: bool, key: str) -> None:
        self.report = Report(board=board)
        self.display = Display()
        self.out = out
        self.card = out / "card.img"
        self.stick = out / "stick.img"
        self.truth: Manifest = {}
        self.key = b""
        # A user's own card has no application that counts.
        self.counts_records = True
        self._started = time.monotonic()
        (out / "serial.log").unlink(missing_ok=True)
        (out / "hsm.json").unlink(missing_ok=True)
        (out / "tpm.log").unlink(missing_ok=True)
        self.binding = key
        self.hsm = HsmProcess(out)
        self.tpm = TpmProcess(out)
        self.pi = VirtualPi(
            out,
            self.card,
            board=board,
            stick=self.stick,
            hsm=self.hsm if key == HSM6 else None,
            tpm=self.tpm if key == TPM2 else None,
            tryboot=tryboot,
            on_line=self.display.pi_says,
        )

    def __enter__(self) -> _Rehearsal:
        return self

    def __exit__(self, *_: object) -> None:
        self.pi.close()
        self.hsm.stop()
        self.tpm.power_off()

    # --- before -------------------------------------------------------------------------------

    def prepare(self, deb: Path, image: Path | None, boot: str, cache: Path) -> None:
        """Make card and stick, and start the HSM."""
        self.display.say("Making the card and the stick (a first time takes some minutes)")
        options = CardOptions(tryboot=self.pi.tryboot, files={DEB_ON_CARD: deb})
        arch = self.pi.board.arch
        if image is None:
            compose_card(self.card, arch=arch, boot=boot, options=options, cache=cache)
        else:
            copy_sparse(image, self.card)
            self.counts_records = False
            grow_to_power_of_two(self.card)
            self.display.say("Putting the virtual board's kernel and HSM6 on the copy")
            graft(self.card, build_base(arch=arch, boot=boot, cache=cache))
            options.write_to(self.card)
        compose_stick(self.stick)
        self.hsm.start()

    # --- the story ----------------------------------------------------------------------------

    def migrate(self) -> None:
        """From the first boot of the plain card to the last words of the encrypted one."""
        self._power_on()
        self.pi.login()
        if self.binding == TPM2:
            self.pi.check(
                f"sudo systemctl disable -q --now zkifc zkbootrtc && sudo rm -rf {ZYMBIT}"
            )
        self.display.say("Installing crfs with apt")
        self.pi.check(
            f"sudo apt-get install -y --no-install-recommends "
            f"-o Dpkg::Options::=--force-confold {DEB_ON_CARD}",
            timeout=INSTALL_S,
        )
        disks = ""
        if self.pi.board.name == "uml":
            disks = f" --disk {self.pi.board.card} --usb {self.pi.board.stick}"
        bound = f" --key {self.binding}" if self.binding != HSM6 else ""
        command = f"sudo crfs encrypt --yes --erase-usb{bound}{disks}"
        self.display.say(f"$ {command}")
        self._follow_command(command)
        self.truth = read_root(self.card)[0]
        (self.out / "truth.jsonl").write_text(dump(self.truth))
        self._search(self.stick, "the stick after phase 1")
        while len(self.pi.boots) < MAX_BOOTS:
            self._power_on()
            if self._follow_boot():
                return
        raise RehearsalError(f"After {MAX_BOOTS} boots the migration is still not done.")

    def _power_on(self) -> None:
        boot = self.pi.power_on()
        kind = "trial" if boot.trial else "default"
        self.display.say(f"Boot {boot.number} ({kind}: {boot.config})")

    def _follow_command(self, command: str) -> None:
        """Type the command that ends in reboot 1, and wait for that."""
        self.pi.run(f"{command}; echo 'ended with '$?", wait=False)
        try:
            match = self.pi.console.expect(r"ended with (\d+)", PHASE_S * self.pi.slowness)
        except ConsoleClosed:
            self._ended(self.pi.wait_exit())
            return
        if match[1] != "0":
            raise RehearsalError(f"`{command}` failed with code {match[1]}; see {self.pi.log}.")
        self._ended(self.pi.wait_exit(PHASE_S))

    def _ended(self, boot: Boot) -> None:
        argument = f" ({boot.argument})" if boot.argument else ""
        self.display.say(f"Boot {boot.number} ended: {boot.ended}{argument}, root {boot.device}")
        if boot.ended != "reboot":
            raise RehearsalError(f"Boot {boot.number} ended in {boot.ended}; see {self.pi.log}.")

    def _follow_boot(self) -> bool:
        """Log in and look on. True if this boot is the last: the migration is done in it."""
        try:
            self.pi.login()
            until = time.monotonic() + PHASE_S * self.pi.slowness
            while not self._is_done():
                if time.monotonic() > until:
                    raise RehearsalError(f"Boot {len(self.pi.boots)} takes too long.")
                # What a user would look at; it moves.
                self.pi.run(f"sudo timeout {FOLLOW_S} journalctl -fu {UNIT} -n 3 -o cat")
        except ConsoleClosed:
            self._ended(self.pi.wait_exit())
            self._search(self.stick, f"the stick after boot {len(self.pi.boots)}")
            return False
        self._last_words()
        return True

    def _is_done(self) -> bool:
        self.display.muted = True
        code, text = self.pi.run("sudo crfs status --json")
        self.display.muted = False
        if code != 0:
            raise RehearsalError(f"`crfs status` failed with code {code}:\n{text}")
        status = json.loads(text[text.index("{") : text.rindex("}") + 1])
        if status.get("halt"):
            raise RehearsalError(f"The migration has stopped: {status['halt'].get('what')}")
        self.report.steps = status.get("steps", [])
        return bool(status["state"] == "done")

    def _last_words(self) -> None:
        """Verify, lsblk, the sealed key; then power off."""
        self.report.verify_code, text = self.pi.run("sudo crfs verify")
        self.display.say(f"$ sudo crfs verify\n{text}")
        self.report.lsblk = self.pi.check("lsblk")
        sealed = self._sealed_key()
        self.display.say("Powering off")
        self.pi.shutdown()
        self.key = (self.tpm if self.binding == TPM2 else self.hsm).unseal(sealed)

    def _sealed_key(self) -> bytes:
        """What only the HSM or TPM opens, as the encrypted Pi keeps it."""
        if self.binding == HSM6:
            return base64.b64decode(self.pi.check(f"sudo base64 {SEALED_KEY}"))
        dump = f"sudo cryptsetup luksDump --dump-json-metadata {self.pi.board.card}p2"
        tokens = json.loads(self.pi.check(dump))["tokens"].values()
        return next(json.dumps(one).encode() for one in tokens if one["type"] == tpm2.TOKEN)

    # --- after --------------------------------------------------------------------------------

    def judge(self) -> None:
        """Compare what is with what was; `ok` is the sum of it."""
        report = self.report
        self.display.say("Comparing the encrypted root with what the plain one was")
        wanted = [RECORDS] if self.counts_records else []
        found, files = read_root(self.card, key=self.key, files=wanted)
        (self.out / "found.jsonl").write_text(dump(found))
        report.files_compared = len(self.truth)
        report.difference_list = compare(self.truth, found, LAWFUL)
        report.differences = len(report.difference_list)
        if self.counts_records:
            self._judge_records(files[RECORDS])
        self._search(self.stick, "the stick at the end")
        self._search(self.card, "the card at the end")
        if self.tpm.overheard(self.key):
            report.markers_found.append("the key on the bus of the TPM")
        report.ok = (
            report.differences == 0
            and report.verify_code == 0
            and (report.records_whole or not self.counts_records)
            and not report.markers_found
            and self._reboots() == 2
        )

    def _judge_records(self, text: bytes) -> None:
        """All numbers from 1 on, none missing, at least as many as were acknowledged."""
        report = self.report
        numbers = [int(line.split()[0]) for line in text.splitlines()]
        report.records_acknowledged = self.pi.acknowledged
        report.records_found = len(numbers)
        whole = numbers == list(range(1, len(numbers) + 1))
        report.records_whole = whole and len(numbers) >= self.pi.acknowledged > 0

    def _search(self, image: Path, name: str) -> None:
        for marker in find_in_image(image, MARKERS):
            self.report.markers_found.append(f"{marker.decode()} in {name}")

    def _reboots(self) -> int:
        return sum(boot.ended == "reboot" for boot in self.pi.boots)

    def write_report(self, *, keep: bool) -> None:
        """Write report.json, and remove the images unless they are to be kept."""
        report = self.report
        report.reboots = self._reboots()
        report.boots = [
            {
                "root": boot.device,
                "kind": "trial" if boot.trial else "default",
                "config": boot.config,
                "ended": boot.ended,
            }
            for boot in self.pi.boots
        ]
        with contextlib.suppress(OSError, RehearsalError):
            report.hsm_unlocks = (
                self.tpm.unlocks() if self.binding == TPM2 else self.hsm.counter("unlocks")
            )
        report.seconds = round(time.monotonic() - self._started, 1)
        text = json.dumps(dataclasses.asdict(report), indent=1)
        (self.out / "report.json").write_text(text + "\n")
        if not keep:
            self.pi.close()
            self.card.unlink(missing_ok=True)
            self.stick.unlink(missing_ok=True)
        self.display.result(report.lsblk, ok=report.ok, where=self.out / "report.json")


def grow_to_power_of_two(card: Path) -> None:
    """Lengthen an image to the next power of two, as the emulated SD card wants it."""
    size = CARD_BYTES
    while size < card.stat().st_size:
        size *= 2
    with card.open("r+b") as file:
        file.truncate(size)


__all__ = ["Report", "rehearse", "require_card_image"]
