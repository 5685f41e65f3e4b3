"""`crfs hsm`: what the module tells, its address, its keys; all through Zymbit's own client."""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path
from typing import Any

from crfs import keys, live, probe, zymbit
from crfs.checks import Machine
from crfs.commands import common, follow
from crfs.errors import HsmError, UsageError

_BACK_AFTER_S = 30.0
_PAUSE_S = 1.0
_CURVES = "NIST P-256 (secp256r1), secp256k1, X25519, ED25519"
_UNCHANGED = "The HSM is as it was."


def run(args: argparse.Namespace) -> int:
    actions = {
        "info": _info,
        "keys": _keys,
        "set-i2c-address": _set_address,
        "store-public-key": _store,
    }
    actions[args.action](args)
    return 0


# --- what it tells --------------------------------------------------------------------------------


def _info(args: argparse.Namespace) -> None:
    zymbit.client()  # raises the error that fits
    told = zymbit.report()
    if told["said"]:
        raise HsmError(told["said"], data=_UNCHANGED, advice="'sudo crfs doctor'")
    print(json.dumps(told, indent=1) if args.json else _render(told))


def _render(told: dict[str, Any]) -> str:
    def value(name: str, form: str = "{}") -> str:
        text = "not told" if told.get(name) is None else form.format(told[name])
        return probe.printable_line(text)

    if told["locked"] is None:
        mode = "not told"
    elif not told["locked"]:
        mode = "development mode: it may be moved to another Pi or card"
    elif told["bound"]:
        mode = "production mode, bound to this Pi and this card for good"
    else:
        mode = "production mode, bound to ANOTHER Pi or card"
    events = told.get("perimeter") or []
    perimeter = [
        f"channel {number}: "
        + (time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(moment)) if moment else "no event")
        for number, moment in enumerate(events)
    ]
    rows = {
        "Model": value("model"),
        "Firmware": value("firmware"),
        "Serial number": value("serial"),
        "Binding": mode,
        "Seals": "opens what it seals" if told["seals"] == "" else value("seals"),
        "Battery": value("battery", "{:.2f} V"),
        "Temperature": value("temperature", "{:.1f} degrees Celsius"),
        "Perimeter": "; ".join(perimeter) or "not told",
        "Clock": value("clock_ahead", "{:+d} s against the Pi's"),
        "Clock's drift": value("rtc_drift"),
    }
    return "\n".join(f"{name + ':':<15} {text}" for name, text in rows.items())


def _keys(args: argparse.Namespace) -> None:
    module = zymbit.client()
    stores = {"own": _slots(module, foreign=False), "foreign": _slots(module, foreign=True)}
    if args.json:
        print(json.dumps({"curves": list(zymbit.KEY_BYTES), "stores": stores}, indent=1))
        return
    print(f"Curves: {_CURVES}")
    for store, facts in stores.items():
        print(f"{store.capitalize()} keys: {len(facts['slots'])} of {facts['most']}")
        for slot, digest in facts["slots"].items():
            print(f"  slot {slot:3}  SHA-256 of the public key {digest}")


def _slots(module: Any, *, foreign: bool) -> dict[str, Any]:
    """The slots in use, each with its key's digest, and how many there can be."""
    slots, most = zymbit.ask("slots", lambda: module.get_slot_alloc_list(foreign=foreign))
    return {"slots": {slot: _digest(module, slot, foreign) for slot in slots}, "most": most}


def _digest(module: Any, slot: int, foreign: bool) -> str:
    """A short name for a key; keys whose export was switched off have none."""
    try:
        key = zymbit.ask("key", lambda: module.get_public_key(slot, foreign=foreign))
    except HsmError as problem:
        if "does not answer" in problem.what:
            raise
        return "not shown"
    return hashlib.sha256(bytes(key)).hexdigest()[:16]


# --- what changes it ------------------------------------------------------------------------------


def _set_address(args: argparse.Namespace) -> None:
    address = _address(args.address)
    common.require_root("hsm set-i2c-address ADDRESS")
    if live.is_running() or live.has_journal():
        raise follow.busy()
    module = zymbit.client()
    taken = Machine().path(f"/sys/bus/i2c/devices/1-{address:04x}")
    if taken.exists():
        raise UsageError(
            f"The kernel knows another device at 0x{address:02x} of this bus.",
            data=_UNCHANGED,
            advice="choose another address: 0x30 to 0x37 or 0x60 to 0x67",
        )
    print(
        f"The HSM is going to answer at 0x{address:02x} of the I2C bus, also after a loss of "
        "power. It restarts at once; until it is back nothing can be sealed or opened. Nothing "
        "that it has sealed changes. If another device has that address, the HSM cannot be reached "
        "until that device is taken off the bus; i2cdetect does not show an HSM6."
    )
    if not args.yes:
        common.confirm(f"Set the address to 0x{address:02x}?")
    zymbit.ask("address", lambda: module.set_i2c_address(address))
    _wait_until_back(module)
    print(f"The HSM answers at 0x{address:02x}.")


def _address(text: str) -> int:
    """Raises UsageError for everything that is no address of an HSM6."""
    try:
        address = int(text, 0)
    except ValueError:
        address = -1
    if address not in zymbit.ADDRESSES:
        raise UsageError(
            f"{text[:20]!r} is no address that an HSM6 can have.",
            data=_UNCHANGED,
            advice="choose one from 0x30 to 0x37 or from 0x60 to 0x67",
        )
    return address


def _wait_until_back(module: Any) -> None:
    until = time.monotonic() + _BACK_AFTER_S
    while True:
        try:
            zymbit.ask("serial", module.get_serial_number)
            return
        except HsmError:
            if time.monotonic() > until:
                raise HsmError(
                    "The HSM does not answer at its new address.",
                    data="What it has sealed is unchanged.",
                    advice=f"'sudo systemctl restart {keys.DAEMON}', then 'sudo crfs hsm info'; if "
                    "that does not help, take other devices off the bus and switch the Pi off and "
                    "on",
                ) from None
            time.sleep(_PAUSE_S)


def _store(args: argparse.Namespace) -> None:
    key = _public_key(Path(args.file), args.curve)
    common.require_root("hsm store-public-key FILE")
    module = zymbit.client()
    slot = zymbit.ask("store", lambda: module.store_foreign_public_key(args.curve, bytearray(key)))
    print(f"Stored in foreign slot {slot}; SHA-256 {hashlib.sha256(key).hexdigest()[:16]}.")


def _public_key(path: Path, curve: str) -> bytes:
    """The bytes of a key of the right length. Raises UsageError."""
    if curve not in zymbit.KEY_BYTES:
        raise UsageError(
            f"{curve[:20]!r} is no curve of an HSM6.",
            data=_UNCHANGED,
            advice=f"one of {', '.join(zymbit.KEY_BYTES)}",
        )
    size = zymbit.KEY_BYTES[curve]
    try:
        with path.open("rb") as file:
            key = file.read(size + 1)
    except OSError as problem:
        raise UsageError(
            f"{path} cannot be read: {problem.strerror}.",
            data=_UNCHANGED,
            advice="name the file that the other module's public key was saved in",
        ) from None
    if len(key) != size:
        found = f"more than {size}" if len(key) > size else str(len(key))
        raise UsageError(
            f"{path} has {found} bytes; a public key of {curve} has {size}.",
            data=_UNCHANGED,
            advice="save the bytes that get_public_key() of Zymbit's client gives on the other Pi, "
            "as they are: no text, no PEM",
        )
    return key
