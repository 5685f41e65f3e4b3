"""`crfs doctor`: look at everything that the FAQ knows to go wrong, and say what helps."""

from __future__ import annotations

import argparse
import json

from crfs.checks import Check, Finding, Machine, Verdict, encryption, groups, sentence
from crfs.errors import UNCHANGED, CrfsError, DoctorFailure, DoctorUnsure, DoctorWarning

Found = list[tuple[str, Check, Finding]]

_MARKS = {
    Verdict.OK: "ok     ",
    Verdict.CANNOT_TELL: "?      ",
    Verdict.WARNING: "WARNING",
    Verdict.FAILURE: "FAILURE",
}
# From the worst: the kind of error, and how its number is told.
_ENDS: tuple[tuple[Verdict, type[CrfsError], str], ...] = (
    (Verdict.FAILURE, DoctorFailure, "{} of {} checks found a failure"),
    (Verdict.WARNING, DoctorWarning, "{} of {} checks warn"),
    (Verdict.CANNOT_TELL, DoctorUnsure, "nothing is wrong, but {} of {} checks cannot tell"),
)


def run(args: argparse.Namespace) -> int:
    machine = Machine()
    # An encrypted root tells what it is bound to; on others the HSM is looked for.
    binding = encryption.binding()
    machine.read_ahead()
    found = [
        (group, check, check.ask(machine))
        for group, checks in groups(binding).items()
        for check in checks
    ]
    if args.json:
        print(json.dumps([_row(*one) for one in found], indent=1))
    else:
        print(_render(found), flush=True)  # before the error, also into a file
    for verdict, kind, text in _ENDS:
        worst = [(check, finding) for _, check, finding in found if finding.verdict is verdict]
        if worst:
            ids = ", ".join(check.id for check, _ in worst)
            raise kind(
                sentence(f"{text.format(len(worst), len(found))}: {ids}"),
                data=UNCHANGED,
                advice=_next([finding for _, finding in worst]),
            )
    return 0


def _row(group: str, check: Check, finding: Finding) -> dict[str, object]:
    return {
        "id": check.id,
        "group": group,
        "looks_at": check.looks_at,
        "verdict": finding.verdict.value,
        "said": finding.said,
        "advice": finding.advice,
        "root_would_tell": finding.root_would_tell,
        "source": check.source,
    }


def _render(found: Found) -> str:
    lines: list[str] = []
    last = ""
    for group, _, finding in found:
        if group != last:
            lines.append(group)
        last = group
        lines.append(f"  {_MARKS[finding.verdict]} {finding.said}")
        if finding.advice:
            lines.append(f"          Next: {finding.advice}")
    hidden = [check.id for _, check, finding in found if finding.root_would_tell]
    if hidden:
        lines.append(f"As root ('sudo crfs doctor') these can tell as well: {', '.join(hidden)}.")
    return "\n".join(lines)


def _next(worst: list[Finding]) -> str:
    if any(finding.root_would_tell for finding in worst):
        return "'sudo crfs doctor' can tell more"
    return next((finding.advice for finding in worst if finding.advice), "see the lines with '?'")
