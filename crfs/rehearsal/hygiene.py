"""Has a key got out? What a guest's processes and journal show is noted, and searched afterwards.

The notes lie on the host, in a folder that the guest mounts (user-mode Linux can), so that they
outlive each boot and the guest itself never needs the key to look for it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path

from crfs.rehearsal.pi import VirtualPi
from crfs.rehearsal.rawsearch import find_in_image

_PIECE = 32  # bytes; a leak need not be of the whole key
_WATCHER = Path(__file__).with_name("watcher.py")
_UNIT = """[Unit]
Description=Note what processes and the journal show
DefaultDependencies=no
After=systemd-journald.service
IgnoreOnIsolate=yes
[Service]
ExecStartPre=/bin/mkdir -p /run/watch
ExecStartPre=/bin/mount -t hostfs -o {notes} none /run/watch
ExecStart=/usr/bin/python3 /usr/local/lib/watcher.py /run/watch
[Install]
WantedBy=sysinit.target crfs-stage.target
"""


def watch(pi: VirtualPi, notes: Path) -> None:
    """Have the running Pi (and every copy of its root) write to `notes` what may be searched."""
    notes.mkdir()
    for text, path in (
        (_WATCHER.read_text(), "/usr/local/lib/watcher.py"),
        (_UNIT.format(notes=notes), "/etc/systemd/system/watcher.service"),
    ):
        encoded = base64.b64encode(text.encode()).decode()
        pi.check(f"echo {encoded} | base64 -d | sudo tee {path} >/dev/null")
    pi.check("sudo systemctl enable --now watcher.service")


def forms(key: bytes) -> list[bytes]:
    """Pieces of the HSM's key in every form that a leak is likely to have."""
    found: set[bytes] = set()
    for at in (0, len(key) // 4 * 3):
        piece = key[at : at + _PIECE]
        text = piece.hex()
        # Of whole groups of three bytes, so that it is the same within the whole key's base64.
        encoded = base64.b64encode(key[at : at + _PIECE - _PIECE % 3])
        found |= {piece, text.encode(), text.upper().encode(), encoded, repr(piece)[2:-1].encode()}
    return sorted(found)


def recovery_forms(recovery_key: str) -> list[bytes]:
    """Halves of a recovery key as it is shown, typed, or kept."""
    groups = recovery_key.split("-")
    halves = groups[: len(groups) // 2], groups[len(groups) // 2 :]
    texts = [joint.join(half) for half in halves for joint in ("-", "", " ")]
    return sorted({one.encode() for text in texts for one in (text, text.upper())})


def search(files: Iterable[Path], needles: list[bytes]) -> list[str]:
    """The names of the files that one of the needles is in."""
    return [path.name for path in files if find_in_image(path, needles)]
