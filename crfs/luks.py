"""LUKS2 mappings, opened and made with a key that goes through a pipe only."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from crfs import probe, runner
from crfs.errors import UNCHANGED, CommandError, DisagreementError
from crfs.model import Cipher

# The key has 4096 random bits: no slow function can add to that, and argon2 may exhaust a Pi.
_PBKDF = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
_KEYSLOTS = 32  # of a LUKS2 header
_RECOVERY_TOKEN = "crfs-recovery"  # noqa: S105 (a name, not a secret)
_DEVICE_TOKEN = "crfs-device"  # noqa: S105
# A quarter of cryptsetup's default, which luksFormat would fill with random bytes, and what follows
# it up to the data with zeros, while services wait; room for 16 keyslots.
HEADER_BYTES = 4 * 2**20
DATA_OFFSET = HEADER_BYTES  # of cryptrfs, bytes; aligned to what SD cards erase at a time
# The stage's data begin behind a copy of cryptrfs's header, which follows its own.
STAGE_DATA_OFFSET = 2 * HEADER_BYTES
_METADATA_BYTES = 2 * 16384  # of a LUKS2 header, both copies; its keyslots follow
BLOCK = 4096  # of the filesystem inside, bytes
INODE_BYTES = 256  # mke2fs's default

AES = Cipher("aes-xts-plain64", 512)
ADIANTUM_12 = Cipher("xchacha12,aes-adiantum-plain64", 256)
ADIANTUM_20 = Cipher("xchacha20,aes-adiantum-plain64", 256)


def cipher_candidates(has_aes: bool) -> tuple[Cipher, ...]:
    """Ciphers in the order of preference for this CPU."""
    return (AES,) if has_aes else (ADIANTUM_12, ADIANTUM_20, AES)


def usable(cipher: Cipher) -> bool:
    """Whether the kernel can do this cipher: one short benchmark in memory tells."""
    argv = ["cryptsetup", "benchmark", "--cipher", cipher.name, "--key-size", str(cipher.key_bits)]
    # A cipher that the kernel does not have is told on standard error only, with exit code 1.
    return "MiB/s" in runner.query(argv, ok=(0, 1), timeout=120)


def choose_cipher() -> Cipher:
    """The first candidate that works here; AES is always there as software."""
    for cipher in cipher_candidates(probe.cpu_has_aes()):
        if usable(cipher):
            return cipher
    return AES


def format_device(
    path: str, uuid: str, cipher: Cipher, key: bytes, label: str, offset: int = DATA_OFFSET
) -> None:
    """Make a LUKS2 header with our UUID. Destroys what the device held.

    `offset` is where the data begin, in bytes; the header itself takes HEADER_BYTES.
    """
    runner.run(
        [
            "cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2", "--uuid", uuid,
            "--label", label, "--cipher", cipher.name, "--key-size", str(cipher.key_bits),
            "--sector-size", str(cipher.sector), "--offset", str(offset // 512),
            "--luks2-keyslots-size", str(HEADER_BYTES - _METADATA_BYTES), *_PBKDF,
            "--key-file", "-", path,
        ],
        stdin=key,
        timeout=300,
    )  # fmt: skip


def add_recovery_key(path: str, key: bytes, recovery: str) -> None:
    """Let a recovery key open the device too; the token tells later which keyslot that is.

    Raises CommandError.
    """
    slot = min(set(map(str, range(_KEYSLOTS))) - _metadata(path).keyslots, key=int)
    runner.run(
        [
            "cryptsetup", "luksAddKey", "--batch-mode", *_PBKDF, "--new-key-slot", slot,
            "--key-file", "-", "--keyfile-size", str(len(key)),
            "--new-keyfile", "-", "--new-keyfile-size", str(len(recovery)), path,
        ],
        stdin=key + recovery.encode(),
    )  # fmt: skip
    add_token(path, {"type": _RECOVERY_TOKEN, "keyslots": [slot]})


def name_partition(path: str, partuuid: str) -> None:
    """Write into the header which partition it belongs to, so that a backup of it tells too."""
    add_token(path, {"type": _DEVICE_TOKEN, "keyslots": [], "partuuid": partuuid})


def named_partition(path: str) -> str:
    """The PARTUUID that a header, or a file with its backup, belongs to; "" if it tells none.

    Raises CommandError for what is no LUKS2 header.
    """
    for token in tokens(path, _DEVICE_TOKEN):
        return str(token.get("partuuid", ""))
    return ""


def back_up_header(path: str, file: Path) -> None:
    """Copy the header into a new file of mode 0600. Raises CommandError."""
    runner.run(["cryptsetup", "luksHeaderBackup", path, "--header-backup-file", str(file)])


def restore_header(path: str, file: Path) -> None:
    """Overwrite the header on a device with a backup of it. Raises CommandError."""
    runner.run(
        ["cryptsetup", "luksHeaderRestore", "--batch-mode", path, "--header-backup-file", str(file)]
    )


def keep_header(path: str, stick: str) -> None:
    """Copy the header on a device to its place on the stick. Raises CommandError."""
    with _header_file() as file:
        back_up_header(path, file)
        runner.run(_copy_header(f"if={file}", f"of={stick}", "seek"), timeout=300)


def bring_back_header(path: str, stick: str, key: bytes) -> bool:
    """Overwrite the header on a device with the copy that the stick keeps, if `key` opens that.

    Returns whether it does; what is on the device is not touched otherwise. Raises CommandError.
    """
    with _header_file() as file:
        runner.run(_copy_header(f"if={stick}", f"of={file}", "skip"), timeout=300)
        whole = key_opens(str(file), key)
        if whole:
            restore_header(path, file)
        return whole


def _copy_header(source: str, target: str, where: str) -> list[str]:
    count = HEADER_BYTES >> 20
    return [
        "dd", source, target, "bs=1M", f"count={count}", f"{where}={count}", "conv=fsync,notrunc",
    ]  # fmt: skip


@contextlib.contextmanager
def _header_file() -> Iterator[Path]:
    """A file in memory that does not exist yet, and is gone afterwards."""
    file = probe.RUN / "header"
    file.unlink(missing_ok=True)
    try:
        yield file
    finally:
        file.unlink(missing_ok=True)


def recovery_keyslots(path: str) -> list[str]:
    """Numbers of the keyslots that recovery keys open. Raises CommandError."""
    return [slot for one in tokens(path, _RECOVERY_TOKEN) for slot in one["keyslots"]]


def remove_recovery_keys(path: str, key: bytes) -> None:
    """Destroy the keyslots of recovery keys; `key`, which stays, proves the right to.

    Raises CommandError.
    """
    for slot in recovery_keyslots(path):
        runner.run(
            ["cryptsetup", "luksKillSlot", "--batch-mode", "--key-file", "-", path, slot],
            stdin=key,
        )
    for number, token in _metadata(path).tokens.items():
        if token["type"] == _RECOVERY_TOKEN:
            runner.run(["cryptsetup", "token", "remove", "--token-id", number, path])


def add_token(path: str, token: dict[str, Any]) -> None:
    """Put a token into the header. Raises CommandError."""
    argv = ["cryptsetup", "token", "import", "--json-file", "-", path]
    runner.run(argv, stdin=json.dumps(token).encode())


def tokens(path: str, kind: str) -> list[dict[str, Any]]:
    """The tokens of a kind in a header, in their order. Raises CommandError."""
    return [one for one in _metadata(path).tokens.values() if one["type"] == kind]


class Metadata(NamedTuple):
    """Of a LUKS2 header's own description, what matters here."""

    keyslots: set[str]  # numbers
    tokens: dict[str, dict[str, Any]]  # by number; each has its type, and keyslots by number


def parse_metadata(text: str) -> Metadata:
    """The JSON area of a header (LUKS2 On-Disk Format Specification), which may be hostile.

    Raises CommandError where it is not what the specification asks for.
    """
    try:
        found = json.loads(text)
        header = Metadata(set(found["keyslots"]), dict(found["tokens"]))
        numbers = [*header.keyslots, *header.tokens]
        for one in header.tokens.values():
            numbers += one["keyslots"]
        kinds = [one["type"] for one in header.tokens.values()]
        right = all(re.fullmatch("[0-9]{1,2}", number, re.ASCII) for number in numbers)
        right = right and all(isinstance(kind, str) for kind in kinds)
    except (ValueError, LookupError, TypeError, RecursionError):
        right = False
    if not right:
        raise CommandError(
            "The LUKS header describes itself in a way that crfs does not understand.",
            data=UNCHANGED,
            advice="'sudo crfs header restore FILE' brings back a header from its backup",
        )
    return header


def _metadata(path: str) -> Metadata:
    return parse_metadata(runner.query(["cryptsetup", "luksDump", "--dump-json-metadata", path]))


def key_opens(path: str, key: bytes) -> bool:
    """Whether the key opens the header on this device."""
    try:
        runner.run(["cryptsetup", "open", "--test-passphrase", "--key-file", "-", path], stdin=key)
    except CommandError:
        return False
    return True


def open_mapping(path: str, name: str, uuid: str, key: bytes) -> None:
    """Open `path` as /dev/mapper/`name`; a mapping of this name must be of the same header.

    Raises DisagreementError if the name stands for something else.
    """
    there = probe.luks_of_mapping(name)
    if there == uuid:
        return
    if probe.mapping_path(name).exists():
        raise DisagreementError(
            f"/dev/mapper/{name} is open and belongs to something else ({there or 'no LUKS'}).",
            data="No disk was written to.",
            advice=f"close it ('sudo cryptsetup close {name}'), then 'sudo crfs resume'",
        )
    runner.run(["cryptsetup", "open", "--key-file", "-", path, name], stdin=key)
    runner.run(["udevadm", "settle", "--timeout=30"])


def close_mapping(name: str) -> None:
    """Close a mapping if it is open."""
    if probe.mapping_path(name).exists():
        runner.run(["cryptsetup", "close", name])


def erase(path: str) -> None:
    """Destroy all that lies before a stick's data: nobody can open what was encrypted any more.

    The stage's own header goes last: by it the stick is found again after a power cut.
    """
    half = [
        "dd",
        "if=/dev/zero",
        f"of={path}",
        "bs=1M",
        f"count={HEADER_BYTES >> 20}",
        "conv=fsync",
    ]
    runner.run([*half, f"seek={HEADER_BYTES >> 20}"])
    runner.run(["cryptsetup", "luksErase", "--batch-mode", path], ok=(0, 1))
    runner.run(["wipefs", "--all", "--force", path])
    runner.run(half)
