"""extlinux.conf, the boot configuration of boards with U-Boot and of NVIDIA's Jetsons.

crfs adds one entry at the end, a copy of the user's default entry with another root, and has the
DEFAULT lines name it; what stood there is kept beside them in comments. It is taken out exactly.
Sources: U-Boot, boot/pxe_utils.c (what is read, and how); ostree, pull request 2256 (U-Boot of a
Jetson wants LINUX, not KERNEL, and a MENU LABEL). No migration uses this yet: docs/boards.md.
"""

from __future__ import annotations

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
from crfs.errors import LayoutError
from crfs.model import ROOT_MAPPING

_WAS = "# crfs: was "
_DEFAULTS = ("DEFAULT", "ONTIMEOUT")
# What may stand in an entry; any other keyword ends it.
_IN_ENTRY = (
    "MENU", "KERNEL", "LINUX", "APPEND", "INITRD", "FDT", "DEVICETREE", "FDTDIR", "DEVICETREEDIR",
    "FDTOVERLAYS", "LOCALBOOT", "IPAPPEND", "KASLRSEED",
)  # fmt: skip
# What crfs's own entry takes over from the user's, by its first name.
_TAKEN_OVER = ("FDT", "DEVICETREE", "FDTDIR", "DEVICETREEDIR", "FDTOVERLAYS")


@dataclass(frozen=True)
class Entry:
    """One LABEL: its lines as keyword (in capitals) and value."""

    name: str
    settings: tuple[tuple[str, str], ...]

    def value(self, *keywords: str) -> str:
        """The last value that one of the keywords has, "" if none."""
        found = [value for keyword, value in self.settings if keyword in keywords]
        return found[-1] if found else ""


@dataclass(frozen=True)
class Config:
    default: str  # the entry that boots by itself, "" if none is named
    entries: tuple[Entry, ...]

    @property
    def chosen(self) -> Entry:
        """The entry that boots by itself. Raises LayoutError where there is none."""
        found = [entry for entry in self.entries if entry.name == self.default != ""]
        if not found or not found[-1].value("LINUX", "KERNEL") or not found[-1].value("APPEND"):
            raise LayoutError(
                f"extlinux.conf has no complete entry {self.default[:40]!r} to boot by default.",
                advice="have its DEFAULT line name an entry with LINUX and APPEND",
            )
        return found[-1]


def read(text: str) -> Config:
    """What a loader makes of the file; lines that it would not understand are passed over."""
    default = ""
    entries: list[Entry] = []
    inside = False
    for line in text.split("\n"):
        keyword, value = _split(line)
        if keyword == "LABEL":
            entries.append(Entry(value, ()))
        elif inside and keyword in _IN_ENTRY:
            entries[-1] = Entry(entries[-1].name, (*entries[-1].settings, (keyword, value)))
        elif keyword in _DEFAULTS:
            default = value
        inside = keyword == "LABEL" or (inside and (not keyword or keyword in _IN_ENTRY))
    return Config(default, tuple(entries))


def _split(line: str) -> tuple[str, str]:
    """Keyword in capitals and value; both empty for blank lines and comments."""
    keyword, _, value = line.strip().replace("\t", " ").partition(" ")
    return ("", "") if keyword.startswith("#") else (keyword.upper(), value.strip())


def with_entry(text: str, name: str, cmdline: str) -> str:
    """The file with an entry of crfs that boots by default. Raises LayoutError (see `chosen`)."""
    plain = without_entry(text)
    theirs = read(plain).chosen
    kernel = theirs.value("LINUX", "KERNEL")
    # Where the loader finds the kernel it finds the initramfs, also on a partition of its own.
    folder = kernel.rpartition("/")[0]
    ours = [
        BEGIN,
        f"LABEL {name}",
        f"      MENU LABEL {name}",
        f"      LINUX {kernel}",
        f"      INITRD {folder}/{INITRAMFS}",
        *(f"      {key} {value}" for key, value in theirs.settings if key in _TAKEN_OVER),
        f"      APPEND {cmdline.strip()}",
        END,
    ]
    lines: list[str] = []
    for line in plain.split("\n"):
        is_default = _split(line)[0] in _DEFAULTS
        lines += [f"{_WAS}{line}", f"DEFAULT {name}"] if is_default else [line]
    return "\n".join([*lines, *ours, ""])


def without_entry(text: str) -> str:
    """The file as it was before crfs added its entry."""
    lines = text.split("\n")
    if BEGIN in lines and END in lines[lines.index(BEGIN) :]:
        del lines[lines.index(BEGIN) : lines.index(END, lines.index(BEGIN)) + 2]
    kept: list[str] = []
    places = iter(lines)
    for line in places:
        if line.startswith(_WAS):
            kept.append(line.removeprefix(_WAS))
            next(places, None)  # ours, which took its place
        else:
            kept.append(line)
    return "\n".join(kept)


def original_cmdline(text: str) -> str:
    """The kernel's command line in the user's default entry. Raises LayoutError."""
    return read(without_entry(text)).chosen.value("APPEND")


def final(text: str, *, keep_shell: bool = False) -> str:
    """The lasting file: the user's, with an entry for the encrypted root. Raises LayoutError."""
    cmdline = final_cmdline(original_cmdline(text), keep_shell=keep_shell)
    return with_entry(text, ROOT_MAPPING, cmdline)


@dataclass(frozen=True)
class Extlinux(BootConfig):
    """extlinux.conf during one migration; `folder` is the mount point of the boot partition.

    There is no one-shot boot: the initramfs has to put `good-extlinux.conf` back.
    """

    @property
    def config(self) -> Path:
        return self.folder / "extlinux/extlinux.conf"

    def arm(self, target: str) -> None:
        fatfile.remove(self.failure_note)
        # After an arming that no boot followed, the file is a trial's already.
        if read(self._text()).default not in (_label(STAGE, True), _label(ROOT, True)):
            fatfile.replace(self.own / "good-extlinux.conf", self.config.read_bytes())
        self._lead_to(target, trial=True)

    def make_default(self, target: str) -> None:
        self._lead_to(target, trial=False)

    def is_default(self, target: str) -> bool:
        return read(self._text()).default == _label(target, False)

    def make_final(self) -> None:
        fatfile.replace(self.config, encode(final(self._text(), keep_shell=self.plan.keep_shell)))

    def disarm(self) -> None:
        text = self._text()
        if text != without_entry(text):
            fatfile.replace(self.config, encode(without_entry(text)))

    def restore(self) -> None:
        self.disarm()
        fatfile.remove(self.initramfs)

    def _lead_to(self, target: str, *, trial: bool) -> None:
        text = self._text()
        build = stage_cmdline if target == STAGE else root_cmdline
        cmdline = build(original_cmdline(text), self.plan, trial=trial)
        fatfile.replace(self.config, encode(with_entry(text, _label(target, trial), cmdline)))

    def _text(self) -> str:
        return decode(self.config.read_bytes())


def _label(target: str, trial: bool) -> str:
    return f"crfs-{target}{'-trial' if trial else ''}"
