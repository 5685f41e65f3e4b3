"""Power: the commonest cause of trouble, says the vendor.

Sources: Linux' drivers/hwmon/raspberrypi-hwmon.c (alarm and its messages), Raspberry Pi
documentation "vcgencmd get_throttled" (bits) and "Power supply" (Pi 5: a supply of 5 A is
negotiated, or USB gets 600 mA only).
"""

from __future__ import annotations

import re

from crfs import probe, runner
from crfs.checks.base import FAQ, Check, Finding, cannot_tell, failure, ok, warning
from crfs.checks.machine import Machine

_SUPPLY = (
    "use a good supply (5 V and 3 A for a Pi 4, 5 A for a Pi 5) and a short thick cable, not a "
    "phone charger; the HSM stops serving when the voltage drops, until the Pi is switched off"
)
_NOW, _SINCE = 1 << 0, 1 << 16  # bits of get_throttled
_FULL_MA = 5000
_LOG = re.compile(r"under-?voltage detected", re.IGNORECASE)


def _alarm(machine: Machine) -> bool | None:
    """The kernel's own sensor; None where there is none."""
    for name in sorted(machine.path("/sys/class/hwmon").glob("*/name")):
        if machine.read(str(name.relative_to(machine.root))) == "rpi_volt":
            value = machine.number(str(name.with_name("in0_lcrit_alarm").relative_to(machine.root)))
            return None if value is None else bool(value)
    return None


def _throttled() -> int | None:
    """The firmware's word; None where it cannot be asked."""
    if not probe.command_exists("vcgencmd"):
        return None
    found = re.search(r"throttled=(0x[0-9a-f]+)", runner.query(["vcgencmd", "get_throttled"]))
    return int(found[1], 16) if found else None


def _undervoltage_now(machine: Machine) -> Finding:
    alarm = _alarm(machine)
    if alarm is None:
        bits = _throttled()
        alarm = None if bits is None else bool(bits & _NOW)
    if alarm is None:
        return cannot_tell("this board has no sensor that tells of the supply's voltage")
    if alarm:
        return failure("the supply's voltage is too low now", _SUPPLY)
    return ok("the supply's voltage is not too low now")


def _undervoltage_since_boot(machine: Machine) -> Finding:
    times = len(_LOG.findall(machine.kernel_log))
    if times:
        return warning(f"the voltage was too low {times} times since the Pi was started", _SUPPLY)
    # The kernel's driver clears the firmware's bits when it reads them, so they come second.
    bits = _throttled()
    if bits is not None and bits & _SINCE:
        return warning("the voltage was too low since the Pi was started", _SUPPLY)
    if not machine.kernel_log and bits is None:
        return cannot_tell("the kernel's log cannot be read", needs_root=True)
    return ok("the voltage was never too low since the Pi was started")


def _supply_current(machine: Machine) -> Finding:
    if not re.match(r"Raspberry Pi (5|500|Compute Module 5)\b", machine.model):
        return ok("only a Pi 5 negotiates a current with its supply")
    path = machine.path("/proc/device-tree/chosen/power/max_current")
    if not path.exists():
        return cannot_tell("the firmware does not tell the negotiated current")
    amount = int.from_bytes(path.read_bytes()[:4], "big")
    if amount < _FULL_MA:
        return warning(
            f"the supply offers {amount} mA; a Pi 5 wants {_FULL_MA} and gives USB less below that",
            "use a supply of 5 V and 5 A, above all with a stick that is to be written",
        )
    return ok(f"the supply offers {amount} mA")


CHECKS = (
    Check(
        "undervoltage-now", "in0_lcrit_alarm of the sensor rpi_volt, or vcgencmd",
        FAQ + ", checklist; Linux, raspberrypi-hwmon", _undervoltage_now,
    ),
    Check(
        "undervoltage-since-boot", "the kernel's log, vcgencmd",
        FAQ + ", checklist; Linux, raspberrypi-hwmon", _undervoltage_since_boot,
    ),
    Check(
        "supply-current", "chosen/power/max_current of the device tree",
        "Raspberry Pi documentation, power supply", _supply_current,
    ),
)  # fmt: skip
