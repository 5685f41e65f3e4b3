"""What a step is, and what it is given to work with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crfs import bindings, luks, probe, recovery, runner
from crfs.bootconfig import BootConfig
from crfs.errors import HsmError
from crfs.journal import Journal
from crfs.model import ROOT_MAPPING, STAGE_MAPPING, Plan, Record
from crfs.proof import Copied, Proven

# For the journal, an initramfs under construction, and what is written while the copy runs.
ROOM_BYTES = 256 * 2**20

# About how much faster than writing a card and a stick are at reading, for the progress.
READING_IS_FASTER = 4

STAGE_MOUNT = probe.RUN / "stage"
SOURCE_MOUNT = probe.RUN / "source"


def _always(plan: Plan) -> float:
    return 1.0


def _never(context: Context) -> bool:
    return False


@dataclass(frozen=True)
class Step:
    """One step, declared once: resume, dry run, progress and documentation come from here.

    `present` asks the devices whether the result is there. It is asked before a step that the
    journal calls finished is passed over. A step without it is done again after each restart.
    `do` can be repeated after any interruption. `bytes` estimates the work for the progress.
    """

    id: str
    title: str
    why: str
    do: Callable[[Context], None]
    present: Callable[[Context], bool] = _never
    destroys: str = ""
    bytes: Callable[[Plan], float] = _always


@dataclass
class Context:
    """One run's hands: its record, its boot files, and the door to progress and journal."""

    journal: Journal
    record: Record
    boot: BootConfig
    report: Callable[[float, float], None]  # bytes done, bytes of the whole step
    say: Callable[[str], None]
    saved: Callable[[Record], None] = lambda record: None  # told of each new record
    copied: Copied | None = None  # what rsync has read for the stage, in this boot
    proven: Proven = field(default_factory=Proven)  # of the stage, in this boot
    _key: bytes = field(default=b"", repr=False)

    @property
    def plan(self) -> Plan:
        return self.record.plan

    def save(self, **changes: Any) -> None:
        """Change the record and make it durable."""
        self.record = dataclasses.replace(self.record, **changes)
        self.journal.write(self.record)
        self.saved(self.record)

    @property
    def binding(self) -> bindings.Binding:
        """What the key of this run is bound to."""
        return bindings.named(self.plan.binding)

    def key(self) -> bytes:
        """The plain key, opened by the HSM or TPM at the first call. Raises HsmError."""
        if not self._key:
            self.binding.take()
            key = self.binding.unseal(self.boot.sealed_key.read_bytes())
            if self.record.key_digest not in ("", bindings.digest(key)):
                title = self.binding.TITLE
                back = "" if self.record.destroyed else "; if it stays so: 'sudo crfs rollback'"
                raise HsmError(
                    f"The {title} opens the sealed key to another one than it has sealed.",
                    data="The sealed key and the disks are unchanged.",
                    advice=f"see that the {title} is the one that it was begun with ('sudo crfs "
                    f"doctor'), then 'sudo crfs resume'{back}",
                )
            self._key = key
        return self._key

    def recovery_key(self) -> str:
        """The recovery key that phase 1 has shown, if the plan has one. Raises HsmError."""
        return recovery.derive(self.key(), self.plan.run_id)

    def format(self, device: str, uuid: str, label: str, offset: int = luks.DATA_OFFSET) -> None:
        """Make a LUKS header of this run: opened by its key, and by the recovery key."""
        luks.format_device(device, uuid, self.plan.cipher, self.key(), label, offset)
        self.binding.attach(device, self.boot.sealed_key.read_bytes())
        if self.plan.recovery_key:
            luks.add_recovery_key(device, self.key(), self.recovery_key())
        runner.run(["udevadm", "settle", "--timeout=30"])

    def formatted(self, device: str) -> bool:
        """Whether the keys of this run open the header on a device, in the next boot too."""
        keys_of_run = [self.key()]
        if self.plan.recovery_key:
            keys_of_run.append(self.recovery_key().encode())
        sealed = self.boot.sealed_key.read_bytes()
        return all(luks.key_opens(device, one) for one in keys_of_run) and self.binding.attached(
            device, sealed
        )

    def where(self) -> str:
        """Which root this boot runs from: `bootconfig.PLAIN`, `STAGE` or `ROOT`."""
        return probe.running_from(self.plan.uuids.root_luks, self.plan.uuids.stage_luks)

    def open_stage(self) -> None:
        """Open the stick's mapping, by the UUID of its header."""
        if probe.luks_of_mapping(STAGE_MAPPING) != self.plan.uuids.stage_luks:
            device = probe.find_stage(self.plan.uuids.stage_luks)
            luks.open_mapping(device.path, STAGE_MAPPING, self.plan.uuids.stage_luks, self.key())

    def root_partition(self) -> probe.Block:
        """The card's root partition. Raises LayoutError where it is not as planned."""
        return probe.root_partition(self.plan.card, given_up=self.record.destroyed)

    def open_root(self) -> None:
        """Open the card's mapping, by partition and UUID of its header."""
        if probe.luks_of_mapping(ROOT_MAPPING) != self.plan.uuids.root_luks:
            luks.open_mapping(
                self.root_partition().path, ROOT_MAPPING, self.plan.uuids.root_luks, self.key()
            )


def used(plan: Plan) -> float:
    """The weight of a step that handles all that the root holds, bytes."""
    return plan.used


def used_read(plan: Plan) -> float:
    """The weight of a step that only reads all that the root holds, bytes."""
    return plan.used / READING_IS_FASTER


def mapping(name: str) -> str:
    return str(probe.mapping_path(name))


def filesystem_limit(plan: Plan) -> int:
    """The largest filesystem that fits the stick and the card's mapping, bytes."""
    on_stick = plan.stick.size - luks.STAGE_DATA_OFFSET
    on_card = plan.card.root_size - luks.DATA_OFFSET
    return min(on_stick, on_card) // luks.BLOCK * luks.BLOCK


def filesystem_bytes(plan: Plan) -> int:
    """Size of the stage's filesystem: what is used, and room for what comes until it settles.

    Not more, because what lies behind it on the card can be scrubbed in phase 3, while the system
    is in use again; then it grows.
    """
    wanted = plan.used * 9 // 8 + plan.files * luks.INODE_BYTES * 5 // 4 + ROOM_BYTES
    return min(wanted // luks.BLOCK * luks.BLOCK, filesystem_limit(plan))


def inodes(plan: Plan) -> int:
    """How many the stage gets: as dense as on the plain root, and room for what is there."""
    dense = plan.inodes * filesystem_bytes(plan) // plan.card.root_size
    return max(dense, plan.files * 5 // 4 + 10000)


def bind(source: str, folder: Path) -> None:
    """Show `source` at `folder` too, without what is mounted below it, now or later.

    Private: what is mounted or unmounted in one of the two is not in the other.
    """
    runner.run(["mount", "--bind", "--make-private", source, str(folder)])


def unmount(folder: Path) -> None:
    """Unmount everything that is mounted at a folder or below it."""
    text = Path("/proc/self/mounts").read_text(errors="surrogateescape")
    targets = [one.target for one in probe.parse_mounts(text)]
    for target in reversed(targets):
        if target == str(folder) or target.startswith(f"{folder}/"):
            runner.run(["umount", target])
