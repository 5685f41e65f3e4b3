"""The key of both mappings: 512 random bytes of the HSM, sealed by it.

The plain key is only ever in this process's memory, in a pipe to cryptsetup, and for the moment
of sealing (the vendor's tool takes a file name) in a ramfs that cannot be swapped out. The sealed
key is made by the very tool that opens it at boot. Tool names and behaviour: Zymbit's own
conversion script.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

from crfs import fatfile, probe, runner
from crfs.errors import UNCHANGED, CommandError, HsmError
from crfs.model import SEALED_KEY

TITLE = "HSM"
KEY_BYTES = 512
TOOLS = ("zkgrifs", "zklockifs", "zkunlockifs")
# Both hold the HSM; the tools above talk to it directly and need it for themselves.
DAEMON = "zkifc.service"
SERVICES = (DAEMON, "zkbootrtc.service")
STATE_FOLDER = Path("/var/lib/zymbit")
IN_INITRAMFS: tuple[str, ...] = ("zkunlockifs", SEALED_KEY)

_KEY_FOLDER = probe.RUN / "keys"
_LOOK_AT_LED = (
    "look at the blue LED (it flashes rapidly while the migration holds the HSM), check the "
    "module's seat and the power supply, then try again ('sudo crfs resume' if it had begun)"
)


def protect_memory() -> bool:
    """Keep this process's memory out of swap and core files; whether the kernel agreed.

    Numbers: mlockall(2) and prctl(2) of Linux. Only pages that are used are locked, so that the
    stacks of threads do not count whole.
    """
    mcl_current_future_onfault, pr_set_dumpable = 1 | 2 | 4, 4
    libc = ctypes.CDLL(None)
    refused: int = libc.prctl(pr_set_dumpable, 0, 0, 0, 0)
    refused |= libc.mlockall(mcl_current_future_onfault)
    return refused == 0


def active_services() -> tuple[str, ...]:
    """Those of the vendor's services that run now."""
    return tuple(unit for unit in SERVICES if probe.unit_active(unit))


def take() -> None:
    """Stop the vendor's services, so that the tools reach the HSM."""
    for unit in active_services():
        runner.run(["systemctl", "stop", unit])


def give_back(services: tuple[str, ...]) -> None:
    """Start again what was active before."""
    for unit in services:
        if unit in SERVICES:
            runner.run(["systemctl", "start", unit])


def random_bytes(count: int) -> bytes:
    """Random bytes from the HSM. Raises HsmError if it is silent or gives too few."""
    got = _tool(["zkgrifs", str(count)])
    if len(got) != count or len(set(got)) == 1:
        raise HsmError(
            f"The HSM gave {len(got)} usable random bytes where {count} were asked for.",
            advice=_LOOK_AT_LED,
        )
    return got


def ask() -> None:
    """See that the HSM answers. Raises HsmError."""
    random_bytes(32)


def make_key() -> bytes:
    """A new key, of the HSM's random numbers. Raises HsmError."""
    return random_bytes(KEY_BYTES)


def seal(key: bytes) -> bytes:
    """The key sealed by the HSM; proven by unsealing it again. Raises HsmError."""
    with _in_ramfs("key", key) as path:
        sealed = _tool(["zklockifs", str(path)])
    if unseal(sealed) != key:
        raise HsmError("The HSM does not open what it sealed a moment ago.", advice=_LOOK_AT_LED)
    return sealed


def unseal(sealed: bytes) -> bytes:
    """The plain key. Raises HsmError if the HSM does not open it."""
    with _in_ramfs("sealed", sealed) as path:
        key = _tool(["zkunlockifs", str(path)])
    if len(key) != KEY_BYTES:
        raise HsmError(
            f"The HSM opened the sealed key to {len(key)} bytes instead of {KEY_BYTES}.",
            data="The sealed key and the disks are unchanged.",
            advice=_LOOK_AT_LED,
        )
    return key


def attach(device: str, sealed: bytes) -> None:
    """The initramfs has the sealed key as a file; the header has no part of it."""


def attached(device: str, sealed: bytes) -> bool:
    """Nothing of it belongs into the header."""
    return True


def sealed_key(device: str) -> bytes:
    """The sealed key of the encrypted root that this is."""
    return Path("/", SEALED_KEY).read_bytes()


def _tool(argv: list[str]) -> bytes:
    try:
        return runner.run([f"/sbin/{argv[0]}", *argv[1:]], timeout=60)
    except CommandError as failure:
        said = failure.advice.removeprefix("read what the command said: ")
        raise HsmError(
            f"The HSM did not do its part ({argv[0]}): {said}",
            data=UNCHANGED,
            advice=_LOOK_AT_LED,
        ) from None


@contextlib.contextmanager
def _in_ramfs(name: str, content: bytes) -> Iterator[Path]:
    """A file for the vendor's tools in memory that is never swapped; gone afterwards."""
    # What a run that was killed has left: it would be found below ours afterwards.
    while probe.mount_of(str(_KEY_FOLDER)):
        runner.run(["umount", str(_KEY_FOLDER)])
    _KEY_FOLDER.mkdir(mode=0o700, parents=True, exist_ok=True)
    runner.run(["mount", "-t", "ramfs", "-o", "mode=0700", "crfs-keys", str(_KEY_FOLDER)])
    path = _KEY_FOLDER / name
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:
            file.write(content)
        yield path
        fatfile.write_synced(path, b"\0" * len(content))
    finally:
        runner.run(["umount", str(_KEY_FOLDER)])
        _KEY_FOLDER.rmdir()
