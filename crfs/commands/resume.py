"""`crfs resume`: go on with a run that stopped."""

from __future__ import annotations

import argparse
from pathlib import Path

from crfs import fatfile, live, luks, probe
from crfs.bootconfig import STAGE
from crfs.bootfiles import BootFiles
from crfs.commands import common, follow
from crfs.errors import UNCHANGED, StateError
from crfs.machine import Migration
from crfs.model import ROOT_MAPPING, STAGE_MAPPING
from crfs.steps import TRYING_ROOT, Context
from crfs.worker import check_card, locked, make_writable

_QUESTION = (
    "Everything that was written to cryptrfs since it was restored will be lost.\n"
    "Erase cryptrfs and restore it from the stick?"
)


def run(args: argparse.Namespace) -> int:
    common.require_root("resume")
    if live.is_running() and not args.restore_again:
        return follow.follow()
    if args.restore_again and not args.yes:
        with locked():
            _require_restorable(_context())
        common.confirm(_QUESTION)
    with locked():
        # Read after the question, which may have been open for long.
        context = _context()
        if args.restore_again:
            _require_restorable(context)
            luks.close_mapping(ROOT_MAPPING)
        make_writable(context.record)
        # Why the last trial boot failed is in the halt; left there, it would stop this too.
        fatfile.remove(context.boot.failure_note)
        if args.restore_again:
            # A trial may be armed still: it would boot what is about to be erased.
            context.boot.make_default(STAGE)
            Migration(context).restore_again()  # type: ignore[attr-defined]
        else:
            context.save(halt=None, attempts=0, trials=0)
    follow.start()
    return follow.follow()


def _context() -> Context:
    """The run that is to go on. Raises StateError, JournalError."""
    found = common.read_journal()
    if found is None:
        raise StateError(
            "There is no migration to resume.", advice="'sudo crfs encrypt' begins one"
        )
    journal, record = found
    check_card(record)
    boot = BootFiles(Path(record.plan.boot.mount), record.plan)
    return Context(journal, record, boot, report=lambda done, whole: None, say=print)


def _require_restorable(context: Context) -> None:
    """Raises StateError where there is no reason to restore again, or no way to."""
    record = context.record
    if record.state != TRYING_ROOT or not record.halt or context.where() != STAGE:
        raise StateError(
            "Only a cryptrfs whose trial boots have failed can be restored again.",
            data=UNCHANGED,
            advice="'sudo crfs status' tells where the migration is, 'sudo crfs resume' goes on",
        )
    if not probe.unlocked_by_itself(STAGE_MAPPING):
        title = context.binding.TITLE
        raise StateError(
            f"In this boot it was not the {title} that unlocked the stick.",
            data=UNCHANGED,
            advice=f"reboot, so that the {title} unlocks it; then type this again",
        )
