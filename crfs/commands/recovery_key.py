"""`crfs recovery-key`: a second way into cryptrfs, for the day HSM or TPM does not answer."""

from __future__ import annotations

import argparse
import getpass
import sys

from crfs import bindings, keys, live, luks, recovery
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


def _own_key(device: str) -> bytes:
    """The key that HSM or TPM opens; services are stopped only meanwhile. Raises HsmError."""
    binding = bindings.named(bindings.kind_of(device))
    active = binding.active_services()
    binding.take()
    try:
        return binding.unseal(binding.sealed_key(device))
    finally:
        binding.give_back(active)


def _add(device: str) -> None:
    made = recovery.fresh()
    luks.add_recovery_key(device, _own_key(device), made)
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
    luks.remove_recovery_keys(device, _own_key(device))
    title = bindings.named(bindings.kind_of(device)).TITLE
    print(f"cryptrfs has no recovery key any more: only the {title} opens it.")
