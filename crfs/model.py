"""The plan of a migration and the record of how far it got, as plain data.

Both are read back from the boot partition, which anyone who holds the card can write: `load`
accepts exactly the declared fields with the declared types, and nothing else.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import types
import typing
from dataclasses import dataclass
from typing import Any

# The vendor's names, which users know from the FAQ and from lsblk.
ROOT_MAPPING = "cryptrfs"
UNIT = "cfg_SD_crfs.service"
STAGE_MAPPING = "cryptstage"
STAGE_LABEL = "crfs-stage"
SEALED_KEY = "var/lib/zymbit/key.bin.lock"  # on a root whose key an HSM6 has sealed

# What a key can be bound to.
HSM6 = "hsm6"
TPM2 = "tpm2"

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Card:
    """The card, held by identity: device names change between boots."""

    path: str  # as found when planned, for messages only
    table_id: str  # PTUUID: the MBR's disk id or the GPT's GUID
    serial: str  # "" where the kernel tells none
    model: str
    size: int  # bytes
    root_partuuid: str
    root_number: int
    root_size: int  # bytes
    boot_partuuid: str


@dataclass(frozen=True)
class Stick:
    """The stick, held by identity until it carries our LUKS header, then by that UUID."""

    path: str
    serial: str
    model: str
    size: int


@dataclass(frozen=True)
class Uuids:
    """Chosen in the plan, so that a device can be asked whether it is ours."""

    stage_luks: str
    stage_fs: str
    root_luks: str


@dataclass(frozen=True)
class Cipher:
    name: str  # as cryptsetup spells it
    key_bits: int
    sector: int = 4096  # bytes; 512 where card or stick is no multiple of 4096


@dataclass(frozen=True)
class Boot:
    mount: str  # /boot/firmware or /boot
    tryboot: bool  # the firmware has one-shot boots
    kernel: str  # release of the running kernel
    cmdline_name: str  # the file that config.txt names, usually cmdline.txt


@dataclass(frozen=True)
class Plan:
    run_id: str
    binding: str  # what opens the key: HSM6 or TPM2
    card: Card
    stick: Stick
    uuids: Uuids
    cipher: Cipher
    boot: Boot
    used: int  # bytes in use on the root filesystem
    inodes: int  # of the root filesystem, used and free; the encrypted one gets about as many
    files: int  # inodes in use
    label: str  # of the root filesystem
    swap_files: tuple[str, ...]  # on the root; made anew on the encrypted one, not copied
    recovery_key: bool  # derived from the key, and shown in phase 1
    keep_stage: bool  # the stick keeps its encrypted copy at the end
    keep_shell: bool  # the initramfs may offer a shell where it fails
    services: tuple[str, ...]  # of the vendor's, those active before
    kept_units: tuple[str, ...]  # network and ssh, as enabled: they run in the small system too


@dataclass(frozen=True)
class Halt:
    """Why a run stopped by itself."""

    code: int
    what: str
    data: str
    advice: str
    # A cause that needs a person: crfs waits for `crfs resume` and does not try at each boot.
    needs_human: bool = False


@dataclass(frozen=True)
class StepRecord:
    id: str
    seconds: float
    bytes: int


@dataclass(frozen=True)
class Record:
    """One entry of the journal: the whole state, so that one good slot is enough."""

    plan: Plan
    state: str
    step: str = ""  # begun and not finished
    finished: tuple[str, ...] = ()  # steps of this state that are done
    attempts: int = 0  # halts in this phase
    trials: int = 0  # trial boots of this phase, counted as they begin
    offset: int = 0  # bytes of the step's work that are safely on the medium
    boot_id: str = ""  # of the boot in which this state began
    fingerprint: str = ""  # what the initramfs was built from
    key_digest: str = ""  # what the HSM or TPM gives has to have it; "" before there is a key
    destroyed: bool = False  # the card's plain root is no longer whole
    cleared: int = 0  # bytes of cryptrfs, from its start, that hold nothing of the plain root
    halt: Halt | None = None
    done_steps: tuple[StepRecord, ...] = ()


def dump(value: Any) -> Any:
    """A dataclass as what JSON can hold."""
    return dataclasses.asdict(value)


def load(kind: type[Any], value: Any) -> Any:
    """The dataclass `kind` out of parsed JSON; ValueError names the field that does not fit."""
    return _load(kind, value, kind.__name__)


def _load(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _load_fields(kind, value, where)
    origin = typing.get_origin(kind)
    if origin is types.UnionType:
        if value is None:
            return None
        return _load(typing.get_args(kind)[0], value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{where} is not a list")
        item = typing.get_args(kind)[0]
        return tuple(_load(item, one, f"{where}[]") for one in value)
    if kind is float and type(value) is int and abs(value) < 2**53:
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"{where} is not of type {kind.__name__}")
    if kind is int and value < 0:
        raise ValueError(f"{where} is negative")
    if kind is float and not math.isfinite(value):
        raise ValueError(f"{where} is not a finite number")
    if kind is str and not value.isprintable():
        raise ValueError(f"{where} has characters that do not belong there")
    return value


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _load_fields(kind: Any, value: Any, where: str) -> Any:
    names = {one.name for one in dataclasses.fields(kind)}
    if not isinstance(value, dict) or set(value) != names:
        raise ValueError(f"{where} does not have exactly its fields")
    hints = _hints(kind)
    made = kind(**{name: _load(hints[name], value[name], f"{where}.{name}") for name in names})
    if kind is Uuids and not all(_UUID.fullmatch(one) for one in dataclasses.astuple(made)):
        raise ValueError(f"{where} has a malformed UUID")
    if kind is Plan and made.binding not in (HSM6, TPM2):
        raise ValueError(f"{where}.binding is of an unknown kind")
    return made
