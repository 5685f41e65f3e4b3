"""`crfs verify`: is the root encrypted, unlocked by the HSM, and nothing left over?"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass

from crfs import bootrecord, keys, probe
from crfs.checks import encryption
from crfs.commands import common
from crfs.errors import CrfsError, VerifyError


@dataclass(frozen=True)
class Check:
    """A question with its answer: `problem` is empty when all is well."""

    id: str
    question: str
    problem: str


def run(args: argparse.Namespace) -> int:
    common.require_root("verify")
    if args.record:
        bootrecord.write(probe.boot_mount())
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


def _daemon() -> str:
    unit = keys.DAEMON
    return "" if probe.unit_active(unit) else f"{unit} is not active ('systemctl status zkifc')"


_CHECKS: tuple[tuple[str, str, Callable[[], str]], ...] = (
    ("root-on-cryptrfs", "the root filesystem is on cryptrfs", encryption.root_on_mapping),
    ("partition", "cryptrfs is on the partition that was encrypted", encryption.on_partition),
    ("unlocked-by-hsm", "the HSM unlocked it in this boot", encryption.unlocked),
    ("zkifc", "zkifc is active again", _daemon),
    ("nothing-left", "nothing of the migration is left over", encryption.leftovers),
    (
        "initramfs",
        "the initramfs is in step with /var/lib/zymbit",
        encryption.initramfs_out_of_step,
    ),
    ("boot-files", "the boot files are as crfs or an update left them", encryption.boot_files),
)
