"""The recovery key: 256 bits that people can type, for the day HSM or TPM does not answer.

It is a passphrase of its own in a second keyslot of `cryptrfs`, in the form that systemd uses for
its recovery keys: 64 letters of the "modhex" alphabet, which lie at the same place on most
keyboards, in eight groups. It is shown once and stored nowhere. Source of the form: the manual
page systemd-cryptenroll(1).
"""

from __future__ import annotations

import hashlib
import hmac
import os
import shutil

from crfs import runner
from crfs.errors import CommandError, UsageError

_LETTERS = "cbdefghijklnrtuv"
_GROUP = 8
_BYTES = 32


def derive(key: bytes, run_id: str) -> str:
    """The recovery key of a migration, out of its random key.

    So phase 2 can put into `cryptrfs` what phase 1 has shown, and nothing has to be kept from one
    to the other. HMAC leads one way: the recovery key tells nothing of that key.
    """
    digest = hmac.new(key, f"crfs recovery key {run_id}".encode(), hashlib.sha256).digest()
    return _spell(digest)


def fresh() -> str:
    """A new one, of the kernel's random numbers."""
    return _spell(os.urandom(_BYTES))


def _spell(content: bytes) -> str:
    letters = "".join(_LETTERS[byte >> 4] + _LETTERS[byte & 15] for byte in content)
    return _in_groups(letters)


def _in_groups(letters: str) -> str:
    return "-".join(letters[at : at + _GROUP] for at in range(0, len(letters), _GROUP))


def understand(typed: str) -> str:
    """The key as it was shown, from what somebody typed: case, blanks and dashes do not matter.

    Raises UsageError where it cannot be a recovery key.
    """
    letters = "".join(typed.lower().split()).replace("-", "")
    if len(letters) != 2 * _BYTES or set(letters) - set(_LETTERS):
        raise UsageError(
            "This is no recovery key: it has 64 letters out of "
            f"'{_LETTERS}', in eight groups of eight.",
            advice="type it as it was shown",
        )
    return _in_groups(letters)


def sheet(key: str) -> str:
    """What is shown, once: the key, and a QR code of it where `qrencode` is installed."""
    half = len(key) // 2
    lines = [
        "Recovery key (write it down now; it is not stored and not shown again):",
        "",
        f"    {key[:half]}-",
        f"    {key[half + 1 :]}",
        "",
        "It opens cryptrfs without HSM or TPM: at the console of this Pi, and on a PC.",
    ]
    if shutil.which("qrencode", path=runner.PATH):
        try:
            picture = runner.run(["qrencode", "-t", "UTF8", "-m", "2"], stdin=key.encode())
            lines += ["", picture.decode().rstrip()]
        except CommandError:
            pass  # the letters are what counts
    return "\n".join(lines)
