"""`crfs verify`: is the root encrypted, unlocked by the HSM, and nothing left over?"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from crfs import bootconfig, keys, live, probe, runner
from crfs.commands import common
from crfs.errors import CrfsError, VerifyError
from crfs.fatfile import SUFFIX
from crfs.journal import FOLDER
from crfs.model import ROOT_MAPPING, STAGE_LABEL, STAGE_MAPPING


@dataclass(frozen=True)
class Check:
    """A question with its answer: `problem` is empty when all is well."""

    id: str
    question: str
    problem: str


def run(args: argparse.Namespace) -> int:
    common.require_root("verify")
    checks = [Check(name, question, _ask(answer)) for name, question, answer in _CHECKS]
    if args.json:
        rows = [{**check.__dict__, "ok": not check.problem} for check in checks]
        print(json.dumps(rows, indent=1))
    else:
        for check in checks:
            print(f"{'ok     ' if not check.problem else 'MISSING'} {check.question}")
            if check.problem:
                print(f"        {check.problem}")
    missing = [check for check in checks if check.problem]
    if missing:
        raise VerifyError(
            f"{len(missing)} of {len(checks)} checks failed: "
            + ", ".join(check.id for check in missing),
            data="Nothing was changed by this.",
            advice="'sudo crfs status' tells where a migration stands",
        )
    return 0


def _ask(answer: Callable[[], str]) -> str:
    try:
        return answer()
    except (CrfsError, OSError, LookupError, TypeError, ValueError) as problem:
        return f"cannot tell: {problem}".split("\n", 1)[0]


def _root_on_mapping() -> str:
    path = probe.mapping_path(ROOT_MAPPING)
    source = probe.root_source()
    if path.exists() and os.path.realpath(path) == source and probe.luks_of_mapping(ROOT_MAPPING):
        return ""
    return f"/ is on {source}, which is not {path}"


def _on_partition() -> str:
    report = live.read_report()
    if not report:
        return f"{live.REPORT} is missing: crfs has not encrypted this root"
    wanted = report["card"]["root_partuuid"]
    holders = [part.partuuid for part in probe.partitions_below(ROOT_MAPPING)]
    return "" if holders == [wanted] else f"cryptrfs is not on partition {wanted} ({holders})"


def _unlocked() -> str:
    if probe.unlocked_by_hsm(ROOT_MAPPING):
        return ""
    return "nothing shows that the HSM unlocked the root in this boot"


def _daemon() -> str:
    unit = keys.DAEMON
    return "" if probe.unit_active(unit) else f"{unit} is not active ('systemctl status zkifc')"


def _leftovers() -> str:
    boot = probe.boot_mount()
    names = [boot / FOLDER, *boot.glob("crfs-*.txt"), *boot.glob(f"*{SUFFIX}")]
    names.append(probe.mapping_path(STAGE_MAPPING))
    found = [str(path) for path in names if path.exists()]
    sticks = [disk.path for disk in probe.disks() if disk.label == STAGE_LABEL]
    return "; ".join([*found, *(f"the copy on {path}" for path in sticks)])


def _initramfs_in_step() -> str:
    boot = probe.boot_mount()
    image = boot / bootconfig.INITRAMFS
    if not image.exists():
        return f"{image} does not exist"
    unpacked = probe.RUN / "verify"
    shutil.rmtree(unpacked, ignore_errors=True)
    unpacked.mkdir(mode=0o700)
    try:
        runner.query(["unmkinitramfs", str(image), str(unpacked)], timeout=600)
        folders = [*unpacked.glob("var/lib/zymbit"), *unpacked.glob("main/var/lib/zymbit")]
        if not folders:
            return f"{image} has no copy of {keys.STATE_FOLDER}"
        differing = _differing(keys.STATE_FOLDER, folders[0])
    finally:
        shutil.rmtree(unpacked)
    if differing:
        return (
            f"differs from {keys.STATE_FOLDER}: {', '.join(differing)} ('sudo update-initramfs -u')"
        )
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


_CHECKS: tuple[tuple[str, str, Callable[[], str]], ...] = (
    ("root-on-cryptrfs", "the root filesystem is on cryptrfs", _root_on_mapping),
    ("partition", "cryptrfs is on the partition that was encrypted", _on_partition),
    ("unlocked-by-hsm", "the HSM unlocked it in this boot", _unlocked),
    ("zkifc", "zkifc is active again", _daemon),
    ("nothing-left", "nothing of the migration is left over", _leftovers),
    ("initramfs", "the initramfs is in step with /var/lib/zymbit", _initramfs_in_step),
)
