"""Is the root encrypted, opened by HSM or TPM, and in step with what the next boot will find?

A root that was not encrypted by crfs is no fault: all of these are about one that was.
"""

from __future__ import annotations

import filecmp
import functools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from crfs import bootconfig, bootrecord, keys, live, probe, runner
from crfs.checks.base import Check, Finding, cannot_tell, failure, ok, warning
from crfs.checks.machine import Machine
from crfs.fatfile import SUFFIX
from crfs.journal import FOLDER
from crfs.model import HSM6, ROOT_MAPPING, STAGE_LABEL, STAGE_MAPPING, TPM2

_OWN = "what crfs leaves behind"
# Zymbit's own conversion uses the same name for the mapping.
_NO_REPORT = "cryptrfs was not made by crfs, or the report of that is missing"
# Without -k all only the newest version is built, which on a Pi 5 may be of another flavour.
_UPDATE = (
    "'sudo update-initramfs -u -k all' before the next reboot: a locked HSM may refuse otherwise"
)


def binding() -> str:
    """What the report of the migration says the key is bound to; HSM6 where there is none."""
    return str(live.read_report().get("binding", HSM6))


def root_on_mapping() -> str:
    """Each of these six functions tells what is wrong, "" if nothing is."""
    path = probe.mapping_path(ROOT_MAPPING)
    source = probe.root_source()
    if path.exists() and os.path.realpath(path) == source and probe.luks_of_mapping(ROOT_MAPPING):
        return ""
    return f"/ is on {source}, which is not {path}"


def on_partition() -> str:
    report = live.read_report()
    if not report:
        return f"{live.REPORT} is missing: crfs has not encrypted this root"
    wanted = report["card"]["root_partuuid"]
    holders = [part.partuuid for part in probe.partitions_below(ROOT_MAPPING)]
    return "" if holders == [wanted] else f"cryptrfs is not on partition {wanted} ({holders})"


def unlocked() -> str:
    if probe.unlocked_by_itself(ROOT_MAPPING):
        return ""
    return "nothing shows that HSM or TPM unlocked the root in this boot"


def leftovers() -> str:
    boot = probe.boot_mount()
    names = [boot / FOLDER, *boot.glob("crfs-*.txt"), *boot.glob(f"*{SUFFIX}")]
    names.append(probe.mapping_path(STAGE_MAPPING))
    found = [str(path) for path in names if path.exists()]
    kept = live.read_report().get("keep_stage") is True
    sticks = [disk.path for disk in probe.disks() if disk.label == STAGE_LABEL and not kept]
    return "; ".join([*found, *(f"the copy on {path}" for path in sticks)])


def boot_files() -> str:
    return "; ".join(bootrecord.changes(probe.boot_mount()))


def initramfs_out_of_step() -> str:
    """Compares contents, which takes seconds and needs root."""
    boot = probe.boot_mount()
    image = boot / bootconfig.INITRAMFS
    if not image.exists():
        return f"{image} does not exist"
    # On the encrypted root: /run has 42 MB on a Pi with 512.
    with tempfile.TemporaryDirectory(prefix="verify-", dir=Path(live.REPORT).parent) as name:
        unpacked = Path(name)
        runner.query(["unmkinitramfs", str(image), name], timeout=600)
        folders = [*unpacked.glob("var/lib/zymbit"), *unpacked.glob("main/var/lib/zymbit")]
        if not folders:
            return f"{image} has no copy of {keys.STATE_FOLDER}"
        differing = _differing(keys.STATE_FOLDER, folders[0])
    if differing:
        return f"differs from {keys.STATE_FOLDER}: {', '.join(differing)} ({_UPDATE})"
    return ""


def _differing(left: Path, right: Path) -> list[str]:
    names = {
        str(path.relative_to(folder))
        for folder in (left, right)
        for path in folder.rglob("*")
        if path.is_file()
    }
    return sorted(
        name
        for name in names
        if not (left / name).is_file()
        or not (right / name).is_file()
        or not filecmp.cmp(left / name, right / name, shallow=False)
    )


def _encrypted(machine: Machine) -> bool:
    return machine.root_device == os.path.realpath(probe.mapping_path(ROOT_MAPPING))


def _migration(machine: Machine) -> Finding:
    if live.is_running():
        return warning("crfs is at work", "'crfs status --watch' follows it; keep the stick in")
    if live.has_journal():
        return warning(
            "a migration was begun and is not over", "'sudo crfs status' tells where it is and why"
        )
    if not _encrypted(machine):
        return ok("/ is not encrypted by crfs")
    return ok("/ is encrypted, and no migration is under way")


def _if_encrypted(
    problem_of: Callable[[], str], well: str, advice: str, machine: Machine
) -> Finding:
    if not _encrypted(machine):
        return ok("/ is not encrypted by crfs")
    if not live.read_report():
        return cannot_tell(_NO_REPORT)
    problem = problem_of()
    return failure(problem, advice) if problem else ok(well)


def _initramfs(machine: Machine) -> Finding:
    if not _encrypted(machine) or live.has_journal() or binding() == TPM2:
        return ok("nothing to compare")
    if not live.read_report():
        return cannot_tell(_NO_REPORT)
    image = machine.boot_folder / bootconfig.INITRAMFS
    if not image.exists():
        return failure(f"{image} does not exist: the next boot cannot open /", _UPDATE)
    changed = max(path.stat().st_mtime for path in keys.STATE_FOLDER.rglob("*"))
    # The hook copies the whole folder, so what is not younger than the image is in it.
    if changed <= image.stat().st_mtime:
        return ok(f"the initramfs is younger than what is in {keys.STATE_FOLDER}")
    if os.geteuid() != 0:
        return cannot_tell(
            f"{keys.STATE_FOLDER} has changed since the initramfs was built", needs_root=True
        )
    problem = initramfs_out_of_step()
    return (
        failure(f"the initramfs {problem}", _UPDATE) if problem else ok("the initramfs is in step")
    )


CHECKS = (
    Check("migration", "journal and lock of crfs", _OWN, _migration),
    Check(
        "mapping", "/dev/mapper/cryptrfs, the report of the migration", _OWN,
        functools.partial(
            _if_encrypted, on_partition, "cryptrfs is on the partition that was encrypted",
            "'sudo crfs verify' tells more",
        ),
    ),
    Check(
        "unlocked-by-hsm", "the note of the initramfs in /run/crfs", _OWN,
        functools.partial(
            _if_encrypted, unlocked, "HSM or TPM unlocked / in this boot",
            "reboot and look again; if the recovery key was typed, see to the HSM or TPM first",
        ),
    ),
    Check("initramfs", "times, then contents of initramfs and folder", _OWN, _initramfs),
)  # fmt: skip
