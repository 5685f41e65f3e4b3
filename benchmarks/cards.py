"""The cards that the flows start from: crfs installed, the root grown, and filled with files."""

from __future__ import annotations

import shlex
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks import payload
from crfs.errors import RehearsalError
from crfs.rehearsal.base import build_base, digest
from crfs.rehearsal.image import CardOptions, compose_card
from crfs.rehearsal.layout import MIB, copy_sparse, partitions_of, run
from crfs.rehearsal.module import HsmProcess
from crfs.rehearsal.pi import VirtualPi
from crfs.rehearsal.rehearse import DEB_ON_CARD
from crfs.rehearsal.workbench import run_in_uml

PROJECT = Path(__file__).resolve().parents[1]
INSTALL_S = 180.0
FILL_S = 1800.0

# In place of the rehearsal's recorder, which flushes twenty records a second and would be the
# load that is measured: an application that only says once a second that it is there.
BEACON = """[Unit]
Description=Application that says that it runs

[Service]
ExecStart=/bin/sh -c 'read -r line </proc/cmdline; line=$${line##*fwline=}; n=0; \\
    while sleep 1; do n=$$((n + 1)); echo "R $$n" >"/dev/$${line%%%% *}"; done'

[Install]
WantedBy=multi-user.target
"""

# Runs as root in the workbench. The filesystem becomes as large as its partition. The kernel clears
# the tables of inodes that are not used yet, as it has long done on a card that is in use: what it
# writes for that would be taken for the work of whoever uses the card first.
_FILL = """set -eu
device={device}
e2fsck -f -y "$device" >/dev/null || [ $? -le 1 ]
resize2fs "$device" 2>&1
mkdir "$UML_WORK/root"
mount -o noatime,init_itable=0 "$device" "$UML_WORK/root"
rm -f "$UML_WORK/root/etc/systemd/system/multi-user.target.wants/recorder.service"
ln -sf /etc/systemd/system/beacon.service \
    "$UML_WORK/root/etc/systemd/system/multi-user.target.wants/beacon.service"
cd {project}
{python} -B -m benchmarks.payload "$UML_WORK/root" {kind} {amount}
cd /
while pgrep -x ext4lazyinit >/dev/null; do sleep 1; done
fstrim "$UML_WORK/root"
umount "$UML_WORK/root"
"""


@dataclass(frozen=True)
class Case:
    """How large the root partition is, and with what it is filled.

    `kind` is "large", "small" or "tiny" (files), `amount` what `payload` wants to know: a share
    from 0 to 1, or for tiny ones their number.
    """

    name: str
    title: str
    root_mib: int
    kind: str
    amount: float


# With this the Debian of the virtual Pi fills less than a quarter of the root.
ROOT_MIB = 1800
CASES = {
    case.name: case
    for case in (
        Case("large-25", "25 % full, large files", ROOT_MIB, "large", 0.25),
        Case("large-80", "80 % full, large files", ROOT_MIB, "large", 0.80),
        Case("small-25", "25 % full, small files", ROOT_MIB, "small", 0.25),
        Case("small-80", "80 % full, small files", ROOT_MIB, "small", 0.80),
    )
}
# Beside the four: as little as there can be, to try a flow; and very many files.
TINY = Case("tiny", "as small as it can be", 900, "large", 0.0)
MANY = Case("many", "400 000 files", 7500, "tiny", 400_000)


def installed_card(deb: Path, folder: Path) -> Path:
    """A card on which crfs was installed with apt; made once for a package, kept in `folder`."""
    cache = PROJECT / "build/rehearsal"
    base = build_base(cache=cache)
    card = folder / f"installed-{digest([base.name.encode(), deb.read_bytes()])}.img"
    if card.exists():
        return card
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="crfs-", dir=folder) as name:
        work = Path(name)
        beacon = work / "beacon.service"
        beacon.write_text(BEACON)
        files = {DEB_ON_CARD: deb, "/etc/systemd/system/beacon.service": beacon}
        unfinished = work / "card.img"
        compose_card(unfinished, options=CardOptions(files=files), cache=cache)
        with HsmProcess(work) as hsm, VirtualPi(work, unfinished, hsm=hsm) as pi:
            pi.power_on()
            pi.login()
            install = "sudo apt-get install -y --no-install-recommends"
            pi.check(f"{install} {DEB_ON_CARD}", timeout=INSTALL_S)
            pi.shutdown()
        unfinished.rename(card)
    return card


def filled_card(case: Case, deb: Path, folder: Path) -> Path:
    """The card of a case; made once, kept in `folder`."""
    installed = installed_card(deb, folder)
    inputs = [installed.name.encode(), repr(case).encode(), Path(payload.__file__).read_bytes()]
    card = folder / f"{case.name}-{digest([*inputs, Path(__file__).read_bytes()])}.img"
    if card.exists():
        return card
    unfinished = card.with_suffix(".unfinished")
    copy_sparse(installed, unfinished)
    grow_root(unfinished, case.root_mib * MIB)
    amount = f"{case.amount:g}" if case.kind != "tiny" else f"{case.amount:.0f}"
    script = _FILL.format(
        device="/dev/ubda2",
        project=shlex.quote(str(PROJECT)),
        python=shlex.quote(sys.executable),
        kind=case.kind,
        amount=amount,
    )
    run_in_uml(script, disks=[unfinished], mem=1024, timeout=FILL_S, check=True)
    unfinished.rename(card)
    return card


def grow_root(card: Path, size: int) -> None:
    """Give the second partition, the last one, `size` bytes; the filesystem in it stays."""
    root = next(part for part in partitions_of(card) if part.number == 2)
    if size < root.size:
        # The first one to ask for it would lose the end of the filesystem.
        raise RehearsalError(f"The root partition has {root.size} bytes, more than {size}.")
    with card.open("r+b") as file:
        file.truncate(root.start + size)
    run(["sfdisk", "-q", "--no-reread", "-N", "2", str(card)], text=f",{size // 512}\n")
