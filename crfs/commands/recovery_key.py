"""`crfs recovery-key`: a second way into cryptrfs, for the day the HSM does not answer."""

from __future__ import annotations

import argparse
import getpass
import sys
from pathlib import Path

from crfs import dress, keys, live, luks, recovery
from crfs.commands import follow
from crfs.commands.common import require_root, root_device
from crfs.errors import VerifyError


def run(args: argparse.Namespace) -> int:
    require_root(f"recovery-key {args.action}")
    if live.is_running() or live.has_journal():
        raise follow.busy()
    keys.protect_memory()
    actions = {"add": _add, "test": _test, "remove": _remove}
    actions[args.action](root_device())
    return 0


def _hsm_key() -> bytes:
    """The key that the HSM opens; its services are stopped only meanwhile. Raises HsmError."""
    active = keys.active_services()
    keys.take_hsm()
    try:
        return keys.unseal(Path("/", dress.SEALED_KEY).read_bytes())
    finally:
        keys.give_back_hsm(active)


def _add(device: str) -> None:
    made = recovery.fresh()
    luks.add_recovery_key(device, _hsm_key(), made)
    print(recovery.sheet(made))
    count = len(luks.recovery_keyslots(device))
    if count > 1:
        print(f"cryptrfs has {count} recovery keys now; 'crfs recovery-key remove' removes all.")


def _test(device: str) -> None:
    if not luks.recovery_keyslots(device):
        raise VerifyError(
            "cryptrfs has no recovery key.", advice="'sudo crfs recovery-key add' makes one"
        )
    typed = getpass.getpass("Recovery key: ") if sys.stdin.isatty() else sys.stdin.readline()
    if not luks.key_opens(device, recovery.understand(typed).encode()):
        raise VerifyError(
            "This key does not open cryptrfs.",
            advice="compare it letter by letter with what you wrote down; "
            "'sudo crfs recovery-key add' makes a new one",
        )
    print("This recovery key opens cryptrfs.")


def _remove(device: str) -> None:
    luks.remove_recovery_keys(device, _hsm_key())
    print("cryptrfs has no recovery key any more: only the HSM opens it.")
