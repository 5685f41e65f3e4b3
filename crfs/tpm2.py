"""The key of both mappings, bound to a TPM 2.0: the other binding beside the HSM6 of `keys`.

The key is sealed under the TPM's own storage key and lies as a token in the LUKS2 headers that it
opens. No PCRs are part of it: nothing measures what a Pi boots, so they would say nothing. The
same script seals here, opens here and opens in the initramfs; see initramfs-hooks/crfs-tpm2.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from crfs import dress, luks, probe, runner
from crfs.errors import UNCHANGED, CommandError, HsmError

TITLE = "TPM"
DEVICE = Path("/dev/tpmrm0")
COMMAND = "tpm2"  # of Debian's tpm2-tools
KEY_BYTES = 64  # a TPM seals at most 128; these are as many random bits as any cipher here takes
TOKEN = "crfs-tpm2"  # noqa: S105 (a name, not a secret)
# Parts of names in the initramfs that have to be there.
IN_INITRAMFS: tuple[str, ...] = ("scripts/crfs-tpm2", "bin/tpm2", "libtss2-tcti-device")

_FIELDS = {"type", "keyslots", "name", "public", "private"}
_ADVICE = (
    "see whether /dev/tpmrm0 is there and what 'journalctl -k' says of the TPM, then try again "
    "('sudo crfs resume' if it had begun)"
)


def active_services() -> tuple[str, ...]:
    """None: the kernel shares the TPM."""
    return ()


def take() -> None:
    """Nobody has to be stopped for it."""


def give_back(services: tuple[str, ...]) -> None:
    """Nobody was stopped for it."""


def ask() -> None:
    """See that the TPM answers. Raises HsmError."""
    _script("ask")


def make_key() -> bytes:
    """A new key, of the kernel's random numbers, to which the TPM adds its own."""
    return os.urandom(KEY_BYTES)


def seal(key: bytes) -> bytes:
    """The key sealed by the TPM, as a LUKS2 token; proven by opening it again. Raises HsmError."""
    sealed = _script("seal", key)
    if unseal(sealed) != key:
        raise HsmError("The TPM does not open what it sealed a moment ago.", advice=_ADVICE)
    return sealed


def unseal(sealed: bytes) -> bytes:
    """The plain key. Raises HsmError if the TPM does not open it."""
    key = _script("unseal", sealed)
    if len(key) != KEY_BYTES:
        raise HsmError(
            f"The TPM opened the sealed key to {len(key)} bytes instead of {KEY_BYTES}.",
            data="The sealed key and the disks are unchanged.",
            advice=_ADVICE,
        )
    return key


def attach(device: str, sealed: bytes) -> None:
    """Put the sealed key into the header that it opens."""
    luks.add_token(device, _parse(sealed))


def attached(device: str, sealed: bytes) -> bool:
    """Whether this sealed key is in the header."""
    return _parse(sealed) in luks.tokens(device, TOKEN)


def sealed_key(device: str) -> bytes:
    """The sealed key in a header. Raises HsmError where there is none."""
    found = luks.tokens(device, TOKEN)
    if not found:
        raise HsmError(
            f"There is no key sealed by a TPM in the header of {device}.",
            data=UNCHANGED,
            advice="'sudo crfs header restore FILE' brings back a header from its backup",
        )
    return json.dumps(found[0]).encode()


def _parse(sealed: bytes) -> dict[str, object]:
    """The token, which was on the boot partition: exactly its fields. Raises HsmError."""
    try:
        token = json.loads(sealed)
    except (ValueError, RecursionError):
        token = None
    if not isinstance(token, dict) or set(token) != _FIELDS or token["type"] != TOKEN:
        raise HsmError(
            "This is no key sealed by a TPM.",
            data="No disk was written to.",
            advice="'sudo crfs rollback', then 'sudo crfs encrypt' again",
        )
    return token


def _script(what: str, given: bytes = b"") -> bytes:
    try:
        return runner.run([str(dress.scripts() / dress.TPM2_SCRIPT), what], stdin=given)
    except CommandError as failure:
        said = probe.printable_line(failure.advice.rpartition("\n")[2])
        raise HsmError(
            "The TPM did not do its part: " + said.removeprefix("read what the command said: "),
            data=UNCHANGED,
            advice=_ADVICE,
        ) from None
