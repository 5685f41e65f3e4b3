"""Zymbit's host software: its tools, its daemon, and the system that they need.

Sources: the vendor's FAQ and published scripts.
"""

from __future__ import annotations

from crfs import keys, live
from crfs.checks.base import FAQ, Check, Finding, cannot_tell, failure, ok
from crfs.checks.machine import Machine
from crfs.errors import HostError

INSTALL = (
    "install Zymbit's host software and wait until the blue LED blinks once every 3 seconds, "
    "then try again"
)
_ELF_64_BIT = 2


def _userland(machine: Machine) -> Finding:
    with machine.path("/bin/sh").open("rb") as file:
        head = file.read(5)
    if head[:4] != b"\x7fELF":
        return cannot_tell("/bin/sh is no program that tells how it was built")
    if machine.kernel_is_64_bit and head[4] != _ELF_64_BIT:
        return failure(
            "a 64-bit kernel runs a 32-bit system, with which Zymbit's software does not work",
            "install a 64-bit system; on a Pi 4 or older also: write 'arm_64bit=0' into "
            "config.txt and reboot",
        )
    return ok("kernel and programs fit together")


def _tools(machine: Machine) -> Finding:
    missing = [name for name in keys.TOOLS if not (machine.path("/sbin") / name).exists()]
    if missing:
        return failure(f"Zymbit's tools are missing: {', '.join(missing)}", INSTALL)
    return ok("Zymbit's tools are there")


def _zkifc(machine: Machine) -> Finding:
    unit = machine.units[keys.DAEMON]
    if unit.active == "active":
        return ok("zkifc is active")
    if live.is_running():
        return ok("zkifc is stopped while crfs holds the HSM (the LED flashes rapidly)")
    if unit.loaded != "loaded":
        return failure("zkifc is not installed: Zymbit's installation is not complete", INSTALL)
    return failure(
        f"zkifc is {unit.active or 'not active'}: nothing on this Pi reaches the HSM",
        "'sudo systemctl start zkifc'; if it stops again, 'journalctl -u zkifc' tells why",
    )


CHECKS = (
    Check(
        "userland", "the kernel's word size and that of /bin/sh", "Zymbit's installer", _userland,
        stops=HostError,
    ),
    Check("zymbit-tools", "/sbin/zk*", FAQ + ", checklist", _tools, stops=HostError),
    Check("zkifc", "systemctl, zkifc.service", FAQ + ", 'invisible to i2c-tools'", _zkifc),
)  # fmt: skip
