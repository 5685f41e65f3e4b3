"""The Pi's firmware: which kernel, initramfs and command line it takes from the FAT partition.

All is read with mtools from the image at every power-on, so that a half-written FAT is met as a
real Pi would meet it.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from crfs.errors import RehearsalError
from crfs.rehearsal.layout import partitions_of

TRYBOOT_ARGUMENT = "0 tryboot"
INCLUDE_DEPTH = 10
READ_TIMEOUT_S = 120
# The name that auto_initramfs looks for is that of the kernel with another beginning.
AUTO_INITRAMFS = (re.compile(r"^kernel(.*)\.img$"), r"initramfs\1")


@dataclass(frozen=True)
class BootFiles:
    """What the firmware hands over: paths on the FAT, the command line, and how it came to it.

    `config` is the file that was read: config.txt, or tryboot.txt for a trial boot.
    """

    kernel: str
    initramfs: str
    cmdline: str
    config: str

    @property
    def trial(self) -> bool:
        """Whether this is a one-shot boot."""
        return self.config == "tryboot.txt"


class BootPartition:
    """Read access to the FAT partition of a card image (a file system, or an image with an MBR)."""

    def __init__(self, card: Path) -> None:
        """Raises RehearsalError if the image has no first partition."""
        first = next((part for part in partitions_of(card) if part.number == 1), None)
        if first is None:
            raise RehearsalError(f"{card} has no boot partition: the firmware finds nothing.")
        self._target = f"{card}@@{first.start}"

    def read(self, name: str) -> bytes | None:
        """The bytes of a file, or None if it is not there."""
        done = subprocess.run(
            ["mtype", "-i", self._target, f"::/{name}"],
            capture_output=True,
            timeout=READ_TIMEOUT_S,
            check=False,
            env={"MTOOLS_SKIP_CHECK": "1", "PATH": "/usr/bin:/bin:/usr/local/bin"},
        )
        return done.stdout if done.returncode == 0 else None

    def text(self, name: str) -> str | None:
        """The text of a file, or None if it is not there."""
        data = self.read(name)
        return None if data is None else data.decode("utf-8", errors="replace")


def choose(fat: BootPartition, model: str, default_kernel: str, *, trial: bool) -> BootFiles:
    """Decide what to boot, as the firmware of a Pi does.

    `model` is the section that applies beside [all], "pi4" for instance; `default_kernel` the
    kernel's name where config.txt has none. Raises RehearsalError if config or kernel is missing:
    a real Pi would stay dark.
    """
    config = "tryboot.txt" if trial else "config.txt"
    if fat.text(config) is None:
        raise RehearsalError(f"The firmware finds no {config} on the boot partition.")
    settings = {"kernel": default_kernel, "cmdline": "cmdline.txt"}
    initramfs = ""
    for line in active_lines(fat, config, model, trial=trial):
        if match := re.match(r"initramfs\s+(\S+)", line):
            initramfs = match[1]
        elif "=" in line:
            key, _, value = line.partition("=")
            settings[key.strip()] = value.strip()
    if not initramfs and settings.get("auto_initramfs") == "1":
        pattern, replacement = AUTO_INITRAMFS
        candidate = pattern.sub(replacement, settings["kernel"])
        if candidate != settings["kernel"] and fat.read(candidate) is not None:
            initramfs = candidate
    cmdline = (fat.text(settings["cmdline"]) or "").split("\n")[0].strip()
    return BootFiles(settings["kernel"], initramfs, cmdline, config)


def active_lines(
    fat: BootPartition, name: str, model: str, *, trial: bool, depth: int = 0
) -> Iterator[str]:
    """The lines of a configuration file that apply to `model`, includes followed."""
    applies = True
    for raw in (fat.text(name) or "").splitlines():
        line = raw.split("#", 1)[0].strip()
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1].strip().lower()
            applies = section in ("all", model) or (section == "tryboot" and trial)
        elif not applies or not line:
            continue
        elif line.startswith("include "):
            if depth < INCLUDE_DEPTH:
                other = line.split(None, 1)[1]
                yield from active_lines(fat, other, model, trial=trial, depth=depth + 1)
        else:
            yield line


def extract(fat: BootPartition, files: BootFiles, folder: Path) -> tuple[Path, Path | None]:
    """Write kernel and initramfs of a boot into `folder`; their paths, None for no initramfs."""
    kernel = fat.read(files.kernel)
    if kernel is None:
        raise RehearsalError(f"The firmware finds no kernel {files.kernel} on the boot partition.")
    (folder / "kernel").write_bytes(kernel)
    if not files.initramfs:
        return folder / "kernel", None
    initramfs = fat.read(files.initramfs)
    if initramfs is None:
        # As the real one does: it goes on without, and the kernel fails to find its root.
        return folder / "kernel", None
    (folder / "initramfs").write_bytes(initramfs)
    return folder / "kernel", folder / "initramfs"


def final_cmdline(files: BootFiles, serial: str, tokens: list[str]) -> str:
    """The kernel's command line: serial0 is this board's console; the board's tokens come last."""
    text = files.cmdline.replace("console=serial0", f"console={serial}")
    return " ".join([text, *tokens])
