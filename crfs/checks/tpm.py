"""A TPM 2.0, where the key is bound to one in place of an HSM6."""

from __future__ import annotations

from crfs import probe, tpm2
from crfs.checks.base import Check, Finding, failure, ok
from crfs.checks.machine import Machine
from crfs.errors import HostError

_OWN = "what crfs needs"


def _device(machine: Machine) -> Finding:
    if not tpm2.DEVICE.exists():
        return failure(
            f"there is no TPM 2.0: {tpm2.DEVICE} does not exist",
            "most TPMs for a Pi need a line in config.txt, for example 'dtoverlay=tpm-slb9670', "
            "and a reboot; 'journalctl -k -g tpm' tells what was found",
        )
    return ok(f"{tpm2.DEVICE} is there")


def _tools(machine: Machine) -> Finding:
    if not probe.command_exists(tpm2.COMMAND):
        return failure("the package tpm2-tools is not installed", "'sudo apt install tpm2-tools'")
    return ok("tpm2-tools is installed")


CHECKS = (
    Check("tpm", str(tpm2.DEVICE), _OWN, _device, stops=HostError),
    Check("tpm-tools", "the folders of programs", _OWN, _tools, stops=HostError),
)
