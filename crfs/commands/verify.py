"""`crfs verify`: is the root encrypted, unlocked by HSM or TPM, and nothing left over?"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass

from crfs import bootconfig, bootrecord, keys, luks, probe, runner, tpm2
from crfs.checks import encryption
from crfs.commands import common
from crfs.errors import UNCHANGED, CrfsError, VerifyError
from crfs.model import TPM2


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
    checks = [Check(name, question, _ask(answer)) for name, question, answer in _checks()]
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
            data=UNCHANGED,
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


def _tpm_opens() -> str:
    keys.protect_memory()
    device = common.root_device()
    key = tpm2.unseal(tpm2.sealed_key(device))
    return "" if luks.key_opens(device, key) else f"the key does not open {device}"


def _initramfs_has_tools() -> str:
    image = probe.boot_mount() / bootconfig.INITRAMFS
    names = runner.query(["lsinitramfs", str(image)], timeout=600)
    missing = [part for part in tpm2.IN_INITRAMFS if part not in names]
    return (
        f"{image} lacks {', '.join(missing)} ('sudo update-initramfs -u -k all')" if missing else ""
    )


def _checks() -> tuple[_Question, ...]:
    """Those of the binding that the report of the migration tells."""
    return _OF_ALL + (_OF_TPM2 if encryption.binding() == TPM2 else _OF_HSM6)


_Question = tuple[str, str, Callable[[], str]]
_OF_ALL: tuple[_Question, ...] = (
    ("root-on-cryptrfs", "the root filesystem is on cryptrfs", encryption.root_on_mapping),
    ("partition", "cryptrfs is on the partition that was encrypted", encryption.on_partition),
    ("nothing-left", "nothing of the migration is left over", encryption.leftovers),
    ("boot-files", "the boot files are as crfs or an update left them", encryption.boot_files),
)
_OF_HSM6: tuple[_Question, ...] = (
    ("unlocked-by-hsm", "the HSM unlocked it in this boot", encryption.unlocked),
    ("zkifc", "zkifc is active again", _daemon),
    (
        "initramfs",
        "the initramfs is in step with /var/lib/zymbit",
        encryption.initramfs_out_of_step,
    ),
)
_OF_TPM2: tuple[_Question, ...] = (
    ("unlocked-by-tpm", "the TPM unlocked it in this boot", encryption.unlocked),
    ("tpm", "the TPM opens the key in the header", _tpm_opens),
    ("initramfs-tpm", "the initramfs has what asks the TPM", _initramfs_has_tools),
)
