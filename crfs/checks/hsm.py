"""The module itself, as it tells through Zymbit's client, and the folder that belongs to it.

Sources: the vendor's FAQ and its published client; the thresholds of the battery are the client's
default (2.3 V) and a little before it, those of the temperature are crfs's own.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, NoReturn

from crfs import keys
from crfs.checks.base import FAQ, Check, Finding, cannot_tell, failure, ok, warning
from crfs.checks.machine import Machine
from crfs.checks.zymbit import INSTALL
from crfs.errors import HostError

_STATE_FOLDER = "/var/lib/zymbit"
_CLIENT = "Zymbit's Python client"
_BATTERY_EMPTY, _BATTERY_LOW, _NO_BATTERY = 2.3, 2.5, 0.5  # volts
_COLD, _WARM, _HOT = -20, 70, 85  # degrees Celsius
_KEEP_OUT = (
    "if the module is in production mode, put back a backup of the folder, and do not let any "
    "installer write to it: without its content such a module can never be used again. In "
    "development mode install Zymbit's host software again"
)


def _folder(machine: Machine) -> Finding:
    folder = machine.path(_STATE_FOLDER)
    if not folder.is_dir():
        return failure(
            f"{_STATE_FOLDER} does not exist: the HSM is not bound to this Pi",
            f"on a new Pi {INSTALL}; on one where it worked: {_KEEP_OUT}",
        )
    files = _files(folder)
    state = [path for path in files if path.name not in ("zkenv.conf", "key.bin.lock")]
    # What a power cut or a failing card leaves of a file: no bytes, or only zeros.
    broken = [path.name for path in files if not path.read_bytes().strip(b"\0")]
    if broken:
        return failure(f"{_STATE_FOLDER} is damaged: {', '.join(broken)} is empty", _KEEP_OUT)
    if not state:
        return failure(f"{_STATE_FOLDER} holds nothing of the binding", _KEEP_OUT)
    return ok(f"{_STATE_FOLDER} is there, with {len(files)} files")


def _files(folder: Path) -> list[Path]:
    """All files below a folder. Raises OSError where it cannot be read."""

    def refuse(problem: OSError) -> NoReturn:
        raise problem

    found = [
        Path(where, name) for where, _, names in os.walk(folder, onerror=refuse) for name in names
    ]
    return sorted(path for path in found if path.is_file())


def _telling(machine: Machine) -> Finding | None:
    """Why the module cannot be asked, None if it can."""
    if machine.units[keys.DAEMON].active != "active":
        return cannot_tell(f"not asked: {keys.DAEMON} is not active")
    if not machine.hsm["installed"]:
        return cannot_tell(f"{_CLIENT} (zymkey) cannot be used", machine.hsm["said"])
    if machine.hsm["said"]:
        return cannot_tell("the HSM does not tell", needs_root=True)
    return None


def _told(machine: Machine, name: str) -> tuple[Any, Finding]:
    """What the module says to a question; where it says nothing, the finding that tells so."""
    silent = _telling(machine)
    if silent is not None:
        return None, silent
    return machine.hsm.get(name), cannot_tell("the module does not say")


def _answers(machine: Machine) -> Finding:
    silent = _telling(machine)
    if silent is None:
        model, firmware = machine.hsm.get("model"), machine.hsm.get("firmware")
        return ok(f"the HSM answers: {model}, firmware {firmware}")
    # Without root the client may not even reach the daemon.
    active = machine.units[keys.DAEMON].active == "active"
    if active and machine.hsm["installed"] and not silent.root_would_tell:
        return failure(
            "the HSM does not answer",
            "look at the blue LED ('crfs led'), check the module's seat and the power supply, "
            "then switch the Pi off and on",
        )
    return silent


def _binding(machine: Machine) -> Finding:
    locked, nothing = _told(machine, "locked")
    if locked is None:
        return nothing
    if not locked:
        return ok("development mode: the module may still be moved to another Pi or card")
    if not machine.hsm.get("bound"):
        return failure(
            "production mode, but bound to another Pi or another card: it will not serve this one",
            "put module, Pi and card together as they were when the binding was locked; there is "
            "no way to move it",
        )
    return ok("production mode: bound to this Pi and this card for good")


def _seals(machine: Machine) -> Finding:
    wrong, nothing = _told(machine, "seals")
    if wrong is None:
        return nothing
    if not wrong:
        return ok("it opens what it seals")
    if machine.hsm.get("locked") and not machine.hsm.get("bound"):
        return cannot_tell("a module that is bound elsewhere does not seal anything here")
    cause = " after tampering" if any(machine.hsm.get("perimeter") or ()) else ""
    return failure(
        f"the module refuses to seal: it has destroyed its keys{cause}, or is broken",
        "if it has destroyed them, what it had encrypted opens with the recovery key only, and "
        "the module cannot be used again; see docs/troubleshooting.md",
    )


def _perimeter(machine: Machine) -> Finding:
    events, nothing = _told(machine, "perimeter")
    if events is None:
        return nothing
    seen = [
        f"channel {channel} on {time.strftime('%Y-%m-%d %H:%M', time.gmtime(moment))} UTC"
        for channel, moment in enumerate(events)
        if moment
    ]
    if seen:
        return warning(
            f"the perimeter was opened: {', '.join(seen)}",
            "look for the cause; clear the events (clear_perimeter_detect_info of the client) "
            "before self-destruction is armed",
        )
    return ok("no perimeter event")


def _battery(machine: Machine) -> Finding:
    volts, nothing = _told(machine, "battery")
    if volts is None:
        return nothing
    if volts < _NO_BATTERY:
        return warning(
            "there is no battery: without power clock and perimeter detection stand still",
            "put one in, if you rely on either",
        )
    if volts < _BATTERY_EMPTY:
        return failure(
            f"the battery is empty ({volts:.2f} V)",
            "change it with the Pi switched on; a module that is set to self-destruct may do so "
            "when the power goes",
        )
    if volts < _BATTERY_LOW:
        return warning(
            f"the battery is low ({volts:.2f} V)", "change it soon, with the Pi switched on"
        )
    return ok(f"the battery has {volts:.2f} V")


def _temperature(machine: Machine) -> Finding:
    celsius, nothing = _told(machine, "temperature")
    if celsius is None:
        return nothing
    said = f"the module is at {celsius:.0f} degrees Celsius"
    if celsius >= _HOT:
        return failure(f"{said}: too hot", "switch the Pi off and see to its cooling")
    if not _COLD < celsius < _WARM:
        return warning(said, "see to its cooling, or bring it into the warm")
    return ok(said)


CHECKS = (
    Check("hsm-folder", _STATE_FOLDER, FAQ + ", rapid blinking", _folder, stops=HostError),
    Check("hsm-answers", _CLIENT, FAQ + ", LED patterns", _answers),
    Check("hsm-binding", _CLIENT, FAQ + ", production mode", _binding),
    Check("hsm-seals", _CLIENT + "; a few bytes, in memory", FAQ + ", LED patterns", _seals),
    Check("hsm-perimeter", _CLIENT, FAQ + ", production mode", _perimeter),
    Check("hsm-battery", _CLIENT, FAQ + ", battery", _battery),
    Check("hsm-temperature", _CLIENT, "Zymbit's client", _temperature),
)
