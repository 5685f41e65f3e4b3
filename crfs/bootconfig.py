"""What every boot loader is told: which root the next boots lead to, with which command line.

One interface with an implementation for each loader that crfs knows: the Raspberry Pi's firmware
(bootfiles.py) and extlinux (extlinux.py).
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from crfs import fatfile
from crfs.journal import FOLDER
from crfs.model import ROOT_MAPPING, STAGE_MAPPING, Plan

INITRAMFS = "crfs-initramfs"
BEGIN = "# crfs: begin (written by crfs, do not edit)"
END = "# crfs: end"
KEYSCRIPT = "/lib/cryptsetup/scripts/zk_get_key"

STAGE = "stage"
ROOT = "root"
PLAIN = "plain"

_REBOOT = "panic=10"  # seconds
# What the user's command line says about these is replaced by ours.
_ROOT_OPTIONS = (
    "root",
    "rootflags",
    "cryptdevice",
    "cryptopts",
    "systemd.unit",
    "panic",
    "ro",
    "rw",
)


def tokens(cmdline: str) -> list[str]:
    """Kernel command line as words; double quotes keep blanks, as in the kernel."""
    return re.findall(r'(?:[^\s"]|"[^"]*"?)+', cmdline)


def token(cmdline: str, name: str) -> str | None:
    """The last value of a `name=value` word, None if there is none."""
    values = [word.partition("=")[2] for word in tokens(cmdline) if word.startswith(f"{name}=")]
    return values[-1] if values else None


def stage_cmdline(original: str, plan: Plan, *, trial: bool) -> str:
    """Boot from the stick: the stage read-only under an overlay, with the small target."""
    ours = [
        f"root=/dev/mapper/{STAGE_MAPPING}",
        f"cryptopts=target={STAGE_MAPPING},source=UUID={plan.uuids.stage_luks},"
        f"keyscript={KEYSCRIPT},luks,tries=100",
        "ro",
        "rootflags=noload",
        # The initramfs knows the first only, and leaves the stage as it is; systemd, for which the
        # last counts, checks the boot partition after a cut (fatfile).
        "fsck.mode=skip",
        "fsck.mode=auto",
        "systemd.unit=crfs-stage.target",
        *(f"systemd.wants={unit}" for unit in plan.kept_units),
    ]
    return _cmdline(original, plan, STAGE, ours, trial)


def root_cmdline(original: str, plan: Plan, *, trial: bool) -> str:
    """Boot from `cryptrfs` while the migration still runs."""
    ours = [f"root=/dev/mapper/{ROOT_MAPPING}"]
    return _cmdline(original, plan, ROOT, ours, trial)


def final_cmdline(original: str, *, keep_shell: bool) -> str:
    """The user's own command line, with the encrypted root.

    An initramfs that fails gives whoever stands there a shell, unless `panic=` has it reboot
    (initramfs-tools(7)). What the user says about that stays as it is.
    """
    words = [
        word for word in tokens(original) if word.partition("=")[0] not in ("root", "cryptdevice")
    ]
    if not keep_shell and token(original, "panic") is None:
        words.append(_REBOOT)
    return " ".join([*words, f"root=/dev/mapper/{ROOT_MAPPING}"]) + "\n"


def _cmdline(original: str, plan: Plan, target: str, ours: list[str], trial: bool) -> str:
    kept = [
        word
        for word in tokens(original)
        if word.partition("=")[0] not in _ROOT_OPTIONS and word not in ("quiet", "splash")
    ]
    trials = ["crfs.trial=1"] if trial else []
    if trial and not plan.boot.tryboot:
        trials.append("crfs.oneshot=1")
    words = [
        # First: a kernel that cuts a line that is too long still leaves a trial again.
        *trials,
        f"crfs.boot={target}",
        f"crfs.bootfs={plan.card.boot_partuuid}",
        # Every way in which a migration boot can fail ends in a reboot to the default.
        _REBOOT,
        *kept,
        *ours,
    ]
    return " ".join(words) + "\n"


def encode(text: str) -> bytes:
    """As the file had it: a command line need not be UTF-8."""
    return text.encode(errors="surrogateescape")


def decode(content: bytes) -> str:
    return content.decode(errors="surrogateescape")


@dataclass(frozen=True)
class BootConfig(ABC):
    """The boot configuration during one migration; `folder` is where the boot files lie.

    Every write leaves the old configuration or the new one, whenever the power goes.
    """

    folder: Path
    plan: Plan

    @property
    def own(self) -> Path:
        return self.folder / FOLDER

    @property
    def initramfs(self) -> Path:
        return self.folder / INITRAMFS

    @property
    def failure_note(self) -> Path:
        """Written by the initramfs when a trial boot fails."""
        return self.own / "trial-failed.txt"

    @property
    def sealed_key(self) -> Path:
        return self.own / "key.bin.lock"

    @abstractmethod
    def arm(self, target: str) -> None:
        """Make the next boot, and only it, a trial of `target`."""

    @abstractmethod
    def make_default(self, target: str) -> None:
        """From now on the ordinary boot leads to `target`."""

    @abstractmethod
    def is_default(self, target: str) -> bool:
        """Whether the ordinary boot leads to `target`."""

    @abstractmethod
    def make_final(self) -> None:
        """The lasting configuration: the user's own, with the encrypted root."""

    @abstractmethod
    def disarm(self) -> None:
        """All boots, trial or not, lead to the user's own configuration."""

    @abstractmethod
    def restore(self) -> None:
        """Everything as it was before the migration, byte for byte."""

    def make_room(self) -> None:
        """Prepare the folders for the names that come to them, before the first does."""
        fatfile.make_room(self.folder)
        self.own.mkdir(mode=0o700, exist_ok=True)
        fatfile.make_room(self.own)

    def remove_own(self) -> None:
        """Remove what crfs keeps beside its journal."""
        if self.own.exists():
            for path in sorted(self.own.iterdir()):
                if not path.name.startswith("journal."):
                    fatfile.remove(path)
