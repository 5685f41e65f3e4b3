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
from crfs.bootconfig import (
    BEGIN,
    END,
    INITRAMFS,
    ROOT,
    STAGE,
    BootConfig,
    decode,
    encode,
    final_cmdline,
    root_cmdline,
    stage_cmdline,
)

_TRIALS = (f"crfs-{STAGE}-trial.txt", f"crfs-{ROOT}-trial.txt")

_BLOCK = re.compile(
    rb"\n?" + re.escape(BEGIN.encode()) + rb"\n.*?" + re.escape(END.encode()) + rb"\n", re.DOTALL
)


def without_block(config: bytes) -> bytes:
    """config.txt as it was before crfs added its block."""
    return _BLOCK.sub(b"", config)


def with_block(config: bytes, cmdline_name: str) -> bytes:
    """config.txt with crfs's block at the end, which names the kernel's command line.

    It always does: what stands before it may name another file for each board, or in a file that
    it includes. The last word under [all] counts, whatever board reads it.
    """
    lines = [
        BEGIN,
        "[all]",
        "auto_initramfs=0",
        f"initramfs {INITRAMFS} followkernel",
        f"cmdline={cmdline_name}",
        END,
    ]
    block = "\n".join(lines) + "\n"
    return without_block(config) + b"\n" + block.encode()


def setting(config: bytes, name: str) -> str:
    """The last value that config.txt gives a setting, "" if none; sections are not looked at."""
    found = re.findall(rb"(?m)^[ \t]*" + name.encode() + rb"[ \t]*=[ \t]*([^\r\n]*)", config)
    return found[-1].decode(errors="replace").strip() if found else ""


@dataclass(frozen=True)
class BootFiles(BootConfig):
    """The boot partition's files during one migration; `folder` is its mount point."""

    @property
    def config(self) -> Path:
        return self.folder / "config.txt"

    def arm(self, target: str) -> None:
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
        name = self._write_cmdline(target, trial=False)
        fatfile.replace(self.config, with_block(self.config.read_bytes(), name))

    def is_default(self, target: str) -> bool:
        return setting(self.config.read_bytes(), "cmdline") == f"crfs-{target}.txt"

    def make_final(self) -> None:
        # config.txt names a file of ours until the user's own is ready.
        text = final_cmdline(self._read_cmdline(), keep_shell=self.plan.keep_shell)
        fatfile.replace(self._cmdline, encode(text))
        # The very file that was written, and no other that a section for this board may name.
        name = self.plan.boot.cmdline_name
        fatfile.replace(self.config, with_block(self.config.read_bytes(), name))
        self._restore_tryboot()
        self._remove_extras()

    def disarm(self) -> None:
        config = self.config.read_bytes()
        if config != without_block(config):
            fatfile.replace(self.config, without_block(config))
        self._restore_tryboot()

    def restore(self) -> None:
        self.disarm()
        self._remove_extras()
        fatfile.remove(self.initramfs)

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
        return decode(self._cmdline.read_bytes()).strip()

    def _write_cmdline(self, target: str, *, trial: bool) -> str:
        build = stage_cmdline if target == STAGE else root_cmdline
        name = f"crfs-{target}{'-trial' if trial else ''}.txt"
        text = build(self._read_cmdline(), self.plan, trial=trial)
        fatfile.replace(self.folder / name, encode(text))
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
