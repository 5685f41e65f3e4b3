"""The HSM through Zymbit's own Python client, where it is installed (module `zymkey`).

Its calls raise AssertionError("bad return code N"); -110 is a module that does not answer. It
talks to the module through the daemon `zkifc`. Source: the client `zku` 1.0.33 as published.
Run as a program it prints `report()` as JSON, which is how `crfs doctor` asks.
"""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable
from typing import Any

from crfs.errors import HostError, HsmError

ADDRESSES = (*range(0x30, 0x38), *range(0x60, 0x68))
# Curve: bytes of a public key as the client gives and takes it.
KEY_BYTES = {"secp256r1": 64, "nistp256": 64, "secp256k1": 64, "ed25519": 32, "x25519": 32}
_TIMEOUT = "-110"
_ADVICE = (
    "'sudo crfs doctor' looks for the cause; 'systemctl status zkifc' shows the daemon that talks "
    "to the module"
)


def client() -> Any:
    """The client's object for the module. Raises HostError, HsmError."""
    try:
        found = importlib.import_module("zymkey").client
    except ModuleNotFoundError as problem:
        raise HostError(
            f"Zymbit's Python client is not installed ({problem}).",
            advice="install Zymbit's host software, which brings it; until then the blue LED tells "
            "how the module is",
        ) from None
    # Foreign code: without its library it raises an error of its own, for example.
    except Exception as problem:
        raise HostError(
            f"Zymbit's Python client cannot be loaded ({type(problem).__name__}: {problem}).",
            advice="install Zymbit's host software again; that may be done any number of times",
        ) from None
    if found is None:
        raise HsmError("The HSM does not answer Zymbit's client.", advice=_ADVICE)
    return found


def ask(what: str, call: Callable[[], Any]) -> Any:
    """One question to the module. Raises HsmError if it refuses or does not answer."""
    try:
        return call()
    # Most are AssertionError, but it is foreign code.
    except Exception as problem:
        code = str(problem).rpartition(" ")[2]
        how = "does not answer" if code == _TIMEOUT else "refuses"
        raise HsmError(f"The HSM {how} ({what}: {problem}).", advice=_ADVICE) from None


def report() -> dict[str, Any]:
    """All that the module tells, as JSON can hold it.

    `installed` (the client) is always there, and `said`, why it tells nothing, or "". What the
    module does not tell is None: an older one has no battery, for example. `locked` is production
    mode; `bound` whether a locked one is with the Pi and the card that it belongs to; `perimeter`
    the epoch second of the first event of each channel, 0 for none; `battery` volts; `temperature`
    degrees Celsius; `rtc_drift` as the client gives it; `clock_ahead` by how many seconds the
    module's clock is ahead of the Pi's; `seals` "" if it opens what it seals, else what is wrong.
    """
    try:
        module = client()
    except HostError as problem:
        return {"installed": False, "said": problem.what}
    except HsmError as problem:
        return {"installed": True, "said": problem.what}
    told: dict[str, Any] = {"installed": True, "said": ""}
    questions: dict[str, Callable[[], Any]] = {
        "model": lambda: module.get_model_number(),
        "firmware": lambda: module.get_firmware_version(),
        "serial": lambda: module.get_serial_number(),
        "binding": lambda: module.get_current_binding_info(),
        "perimeter": lambda: module.get_perimeter_detect_info(),
        "battery": lambda: module.get_batt_volt(),
        "temperature": lambda: module.get_cpu_temp(),
        "rtc_drift": lambda: module.get_rtc_drift(),
        "clock_ahead": lambda: round(module.get_time() - time.time()),
        "seals": lambda: _seals(module),
    }
    for name, call in questions.items():
        try:
            told[name] = _plain(ask(name, call))
        except HsmError as problem:
            if "does not answer" in problem.what:
                return {"installed": True, "said": problem.what}
            told[name] = problem.what if name == "seals" else None
    told["locked"], told["bound"] = told.pop("binding") or (None, None)
    return told


def _plain(value: Any) -> Any:
    """A value of the client as JSON can hold it."""
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, bytes | bytearray):
        return value.decode(errors="replace").rstrip("\0")
    return round(value, 3) if isinstance(value, float) else value


def _seals(module: Any) -> str:
    """Let the module seal and open a few bytes in memory; "" if they come back."""
    sample = b"crfs: seal and open"
    if bytes(module.unlock(module.lock(sample))) == sample:
        return ""
    return "it does not open what it sealed a moment ago"


if __name__ == "__main__":
    print(json.dumps(report()))
