"""All that `crfs doctor` looks at, each check declared once, in groups; nothing is changed.

`crfs encrypt` uses the same checks: those with `stops` refuse, the others warn.
"""

from __future__ import annotations

from crfs.checks import boot, encryption, host, hsm, i2c, power, storage, tpm, zymbit
from crfs.checks.base import Check, Finding, Verdict
from crfs.checks.machine import Machine
from crfs.model import HSM6, TPM2

_OWN = "Encryption"
GROUPS: dict[str, tuple[Check, ...]] = {
    "Power": power.CHECKS,
    "I2C": i2c.CHECKS,
    "HSM": hsm.CHECKS,
    "Zymbit's software": zymbit.CHECKS,
    "TPM": tpm.CHECKS,
    "Host software": host.CHECKS,
    "Boot chain": boot.CHECKS,
    "Storage": storage.CHECKS,
    _OWN: encryption.CHECKS,
}
ALL = tuple(check for checks in GROUPS.values() for check in checks)

# These groups are about one kind of module, and of no use to who has the other.
_OF = {"I2C": HSM6, "HSM": HSM6, "Zymbit's software": HSM6, "TPM": TPM2}


def groups(binding: str) -> dict[str, tuple[Check, ...]]:
    """What there is to look at where keys are bound to HSM6 or TPM2."""
    return {name: checks for name, checks in GROUPS.items() if _OF.get(name, binding) == binding}


def require(machine: Machine, *names: str) -> None:
    """Raise the error of the first check of these groups that stops a migration."""
    for name in names:
        for check in GROUPS[name]:
            if check.stops is None:
                continue
            # Not `ask`: an error in looking stops a migration as well, in its own words.
            finding = check.look(machine)
            if finding.verdict in (Verdict.FAILURE, Verdict.CANNOT_TELL):
                raise check.stops(sentence(finding.said), advice=finding.advice)


def warnings(machine: Machine, binding: str) -> list[str]:
    """What does not stop a migration but should be known before it."""
    found = []
    # Not how crfs itself is: the plan is made at work, for a root that is not encrypted yet.
    asked = (checks for name, checks in groups(binding).items() if name != _OWN)
    for check in (check for checks in asked for check in checks):
        if check.stops is None:
            finding = check.ask(machine)
            if finding.verdict in (Verdict.WARNING, Verdict.FAILURE):
                found.append(f"{sentence(finding.said)} Next: {finding.advice}")
    return found


def sentence(text: str) -> str:
    """A finding's words as a sentence; commands and paths at its beginning stay as they are."""
    first = text if text.startswith(("zkifc", "crfs", "cfg_")) else text[:1].upper() + text[1:]
    return first if first.endswith(".") else f"{first}."


__all__ = [
    "ALL", "GROUPS", "Check", "Finding", "Machine", "Verdict", "groups", "require",
    "sentence", "warnings",
]  # fmt: skip
