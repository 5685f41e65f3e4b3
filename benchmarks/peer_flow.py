"""The peers: other ways to an encrypted root, each a shell script, on the same slow disks."""

from __future__ import annotations

import itertools
import re
import secrets
import shlex
import sys
from pathlib import Path
from typing import Any

from benchmarks.devices import Profile
from benchmarks.slowdisk import SlowDisk
from crfs.errors import RehearsalError
from crfs.rehearsal.boards import MEMORY_MIB
from crfs.rehearsal.layout import copy_sparse, make_empty
from crfs.rehearsal.manifest import Manifest, compare, read_root
from crfs.rehearsal.workbench import run_in_uml

PEERS = Path(__file__).with_name("peers")
NAMES = ("rsync", "vendor", "sdm", "reencrypt")
FLOW_S = 3 * 3600.0
KEY_BYTES = 512
SECTOR = 4096
# Without these the flow has not done what it is there for, and its time is worth nothing.
ESSENTIAL = frozenset({"type", "size", "sha256", "mode", "uid", "gid", "target"})

_CIPHER = "from crfs import luks; c = luks.choose_cipher(); print('@cipher', c.name, c.key_bits)"
_PHASE = re.compile(r"^@phase (\S+) ([0-9.]+)$", re.MULTILINE)


def run_peer(
    name: str, card: Path, truth: Manifest, profile: Profile, folder: Path, manifest_s: float
) -> dict[str, Any]:
    """Let a peer encrypt a copy of `card`; what it took. `truth` is what is on its root.

    RehearsalError if the result does not hold the same files with the same contents.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own, stick, key = folder / "card.img", folder / "stick.img", folder / "key"
    copy_sparse(card, own)
    make_empty(stick, 2 * card.stat().st_size)
    key.write_bytes(secrets.token_bytes(KEY_BYTES))
    cipher, bits = choose_cipher()
    environment = {
        "PEERS": str(PEERS),
        "KEY": str(key.resolve()),
        "CARD": "/dev/vda2",
        "STICK": "/dev/vdb",
        "CIPHER": cipher,
        "KEY_BITS": bits,
        "SECTOR": str(SECTOR),
    }
    with SlowDisk(own, profile.card) as slow_card, SlowDisk(stick, profile.stick) as slow_stick:
        done = run_in_uml(
            (PEERS / f"{name}.sh").read_text(),
            disks=[slow_card.socket, slow_stick.socket],
            mem=MEMORY_MIB,
            timeout=FLOW_S,
            env=environment,
            check=True,
        )
        counters = {"card": slow_card.counters(), "stick": slow_stick.counters()}
    phases = phases_of(done.output)
    found = read_root(own, key=key.read_bytes(), timeout=manifest_s)[0]
    wrong = essential_differences(truth, found)
    if wrong:
        raise RehearsalError(f"{name} has not kept the files:\n" + "\n".join(wrong[:10]))
    for path in (own, stick, key):
        path.unlink()
    return {
        "total_s": sum(phases.values()),
        "phases": phases,
        "cipher": {"name": cipher, "key_bits": int(bits)},
        "written": {disk: one.bytes_written for disk, one in counters.items()},
        "differences": len(compare(truth, found)),
    }


def choose_cipher() -> tuple[str, str]:
    """Name and key bits of the cipher that crfs chooses in the machine of the benchmark."""
    script = f"{shlex.quote(sys.executable)} -B -c {shlex.quote(_CIPHER)}"
    project = Path(__file__).resolve().parents[1]
    output = run_in_uml(script, cwd=project, check=True).output
    match = re.search(r"^@cipher (\S+) (\d+)$", output, re.MULTILINE)
    if match is None:
        raise RehearsalError(f"No cipher was chosen:\n{output}")
    return match[1], match[2]


def phases_of(output: str) -> dict[str, float]:
    """Seconds of each phase: from its mark in the output to the next one."""
    marks = [(match[1], float(match[2])) for match in _PHASE.finditer(output)]
    if not marks or marks[-1][0] != "end":
        raise RehearsalError(f"The peer did not come to its end:\n{output[-2000:]}")
    pairs = itertools.pairwise(marks)
    return {name: round(after - before, 2) for (name, before), (_, after) in pairs}


def essential_differences(truth: Manifest, found: Manifest) -> list[str]:
    """Where files, contents, owners or modes differ. A socket may be gone: tar passes them over."""
    before, after = (
        {
            path: {field: value for field, value in entry.items() if field in ESSENTIAL}
            for path, entry in manifest.items()
            if entry["type"] != "socket" and not path.startswith("/lost+found")
        }
        for manifest in (truth, found)
    )
    return compare(before, after)
