"""What several subcommands need."""

from __future__ import annotations

import os

from crfs import probe
from crfs.errors import LayoutError, NotRootError
from crfs.journal import Journal
from crfs.model import Record


def require_root(command: str) -> None:
    """Raises NotRootError."""
    if os.geteuid() != 0:
        raise NotRootError("This needs root.", advice=f"type 'sudo crfs {command}'")


def read_journal() -> tuple[Journal, Record] | None:
    """The journal of the run that is under way, None if there is none. Raises JournalError."""
    try:
        journal = Journal(probe.boot_mount())
    except LayoutError:
        return None
    record = journal.read()
    return (journal, record) if record else None
