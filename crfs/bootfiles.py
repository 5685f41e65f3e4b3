"""The Pi firmware's boot files: config.txt, cmdline.txt, tryboot.txt.

config.txt is switched by one small atomic replacement; everything that it names is on the medium
before. crfs adds one block at the end of config.txt and leaves the rest as it is. Sources:
Raspberry Pi documentation, "config.txt", "Boot flow" and "tryboot".
"""

from __future__ import annotations

import re
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
_TRIALS = (f"crfs-{STAGE}-trial.txt", f"crfs-{ROOT}-trial.txt")

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
_BLOCK = re.compile(
    rb"\n?" + re.escape(BEGIN.encode()) + rb"\n.*?" + re.escape(END.encode()) + rb"\n", re.DOTALL
)


def without_block(config: bytes) -> bytes:
    """config.txt as it was before crfs added its block."""
    return _BLOCK.sub(b"", config)


def with_block(config: bytes, cmdline_name: str | None) -> bytes:
    """config.txt with crfs's block at the end; `cmdline_name` None keeps the user's cmdline.txt."""
    lines = [BEGIN, "[all]", "auto_initramfs=0", f"initramfs {INITRAMFS} followkernel"]
    if cmdline_name:
        lines.append(f"cmdline={cmdline_name}")
    block = "\n".join([*lines, END]) + "\n"
    return without_block(config) + b"\n" + block.encode()


def setting(config: bytes, name: str) -> str:
    """The last value that config.txt gives a setting, "" if none; sections are not looked at."""
    found = re.findall(rb"(?m)^[ \t]*" + name.encode() + rb"[ \t]*=[ \t]*([^\r\n]*)", config)
    return found[-1].decode(errors="replace").strip() if found else ""


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
        "fsck.mode=skip",
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
    words = [
        *kept,
        *ours,
        f"crfs.boot={target}",
        f"crfs.bootfs={plan.card.boot_partuuid}",
        # Every way in which a migration boot can fail ends in a reboot to the default.
        _REBOOT,
    ]
    if trial:
        words.append("crfs.trial=1")
        if not plan.boot.tryboot:
            words.append("crfs.oneshot=1")
    return " ".join(words) + "\n"


@dataclass(frozen=True)
class BootFiles:
    """The boot partition's files during one migration; `folder` is its mount point."""

    folder: Path
    plan: Plan

    @property
    def config(self) -> Path:
        return self.folder / "config.txt"

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

    def arm(self, target: str) -> None:
        """Make the next boot, and only it, a trial of `target`."""
        trial = with_block(self.config.read_bytes(), self._write_cmdline(target, trial=True))
        fatfile.remove(self.failure_note)
        if self.plan.boot.tryboot:
            self._keep_tryboot()
            fatfile.replace(self._tryboot, trial)
            return
        # The initramfs puts this back as soon as it runs: that is what makes it one boot only.
        # After an arming that no boot followed, config.txt is a trial's already.
        if setting(self.config.read_bytes(), "cmdline") not in _TRIALS:
            fatfile.replace(self.own / "good-config.txt", self.config.read_bytes())
        fatfile.replace(self.config, trial)

    def make_default(self, target: str) -> None:
        """From now on the firmware's ordinary boot leads to `target`."""
        name = self._write_cmdline(target, trial=False)
        fatfile.replace(self.config, with_block(self.config.read_bytes(), name))

    def is_default(self, target: str) -> bool:
        """Whether the firmware's ordinary boot leads to `target`."""
        return setting(self.config.read_bytes(), "cmdline") == f"crfs-{target}.txt"

    def make_final(self) -> None:
        """The lasting configuration: the user's files, with the encrypted root."""
        # config.txt names a file of ours until the user's own is ready.
        text = final_cmdline(self._read_cmdline(), keep_shell=self.plan.keep_shell)
        fatfile.replace(self._cmdline, _encode(text))
        fatfile.replace(self.config, with_block(self.config.read_bytes(), None))
        self._restore_tryboot()
        self._remove_extras()

    def disarm(self) -> None:
        """The firmware's boots, trial or not, lead to the user's own configuration."""
        config = self.config.read_bytes()
        if config != without_block(config):
            fatfile.replace(self.config, without_block(config))
        self._restore_tryboot()

    def restore(self) -> None:
        """Everything as it was before the migration, byte for byte."""
        self.disarm()
        self._remove_extras()
        fatfile.remove(self.initramfs)

    def remove_own(self) -> None:
        """Remove what crfs keeps beside its journal."""
        if self.own.exists():
            for path in sorted(self.own.iterdir()):
                if not path.name.startswith("journal."):
                    fatfile.remove(path)

    def leftovers(self) -> list[Path]:
        """What of a migration is still on the boot partition."""
        return [path for path in [*self._extras(), self.own] if path.exists()]

    @property
    def _cmdline(self) -> Path:
        return self.folder / self.plan.boot.cmdline_name

    @property
    def _tryboot(self) -> Path:
        return self.folder / "tryboot.txt"

    @property
    def _users_tryboot(self) -> Path:
        return self.own / "users-tryboot.txt"

    def _read_cmdline(self) -> str:
        return self._cmdline.read_bytes().decode(errors="surrogateescape").strip()

    def _write_cmdline(self, target: str, *, trial: bool) -> str:
        build = stage_cmdline if target == STAGE else root_cmdline
        name = f"crfs-{target}{'-trial' if trial else ''}.txt"
        text = build(self._read_cmdline(), self.plan, trial=trial)
        fatfile.replace(self.folder / name, _encode(text))
        return name

    def _keep_tryboot(self) -> None:
        if self._tryboot.exists() and BEGIN.encode() not in self._tryboot.read_bytes():
            fatfile.replace(self._users_tryboot, self._tryboot.read_bytes())

    def _restore_tryboot(self) -> None:
        if self._users_tryboot.exists():
            fatfile.replace(self._tryboot, self._users_tryboot.read_bytes())
        elif self._tryboot.exists() and BEGIN.encode() in self._tryboot.read_bytes():
            fatfile.remove(self._tryboot)

    def _extras(self) -> list[Path]:
        named = [
            self.folder / f"crfs-{target}{trial}.txt"
            for target in (STAGE, ROOT)
            for trial in ("", "-trial")
        ]
        return [*named, *sorted(self.folder.glob(f"*{fatfile.SUFFIX}"))]

    def _remove_extras(self) -> None:
        for path in self._extras():
            fatfile.remove(path)


def _encode(text: str) -> bytes:
    return text.encode(errors="surrogateescape")
