"""What several subcommands need."""

from __future__ import annotations

import os
import sys

from crfs import probe
from crfs.errors import UNCHANGED, Declined, NotRootError, StateError
from crfs.journal import Journal
from crfs.model import ROOT_MAPPING, Record


def require_root(command: str) -> None:
    """Raises NotRootError."""
    if os.geteuid() != 0:
        raise NotRootError("This needs root.", advice=f"type 'sudo crfs {command}'")


def read_journal() -> tuple[Journal, Record] | None:
    """The journal of the run that is under way, None if there is none.

    Raises JournalError, and LayoutError where the boot partition, which it lies on, is not mounted.
    """
    journal = Journal(probe.boot_mount())
    record = journal.read()
    return (journal, record) if record else None


def root_device() -> str:
    """The partition below cryptrfs. Raises StateError where there is none."""
    for part in probe.partitions_below(ROOT_MAPPING):
        return part.path
    raise StateError(
        "There is no cryptrfs here: this root is not encrypted by crfs.",
        advice="'sudo crfs encrypt' encrypts it",
    )


def confirm(question: str) -> None:
    """Go on only if somebody at a terminal types yes. Raises Declined."""
    if not sys.stdin.isatty():
        raise Declined(
            "There is no terminal to ask on.",
            data=UNCHANGED,
            advice="add '--yes' if you agree to the plan",
        )
    try:
        answer = input(f"\n{question}\nType yes to begin: ")
    except EOFError:
        answer = ""
    if answer.strip().lower() != "yes":
        raise Declined(
            "You did not say yes.",
            data=UNCHANGED,
            advice="type the command again; it asks again",
        )
