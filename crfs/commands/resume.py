"""`crfs resume`: go on with a run that stopped."""

from __future__ import annotations

import argparse
from pathlib import Path

from crfs import fatfile, live
from crfs.bootconfig import STAGE
from crfs.bootfiles import BootFiles
from crfs.commands import common, follow
from crfs.errors import StateError
from crfs.machine import Migration
from crfs.steps import TRYING_ROOT, Context
from crfs.worker import check_card, make_writable


def run(args: argparse.Namespace) -> int:
    common.require_root("resume")
    if live.is_running():
        return follow.follow()
    found = common.read_journal()
    if found is None:
        raise StateError(
            "There is no migration to resume.", advice="'sudo crfs encrypt' begins one"
        )
    journal, record = found
    check_card(record)
    boot = BootFiles(Path(record.plan.boot.mount), record.plan)
    context = Context(journal, record, boot, report=lambda done, whole: None, say=print)
    if args.restore_again:
        _agree(context, args.yes)
    make_writable(record)
    # The reason of the last failed trial boot is in the halt; left there, it would stop this too.
    fatfile.remove(boot.failure_note)
    if args.restore_again:
        Migration(context).restore_again()  # type: ignore[attr-defined]
    context.save(halt=None, attempts=0, trials=0)
    follow.start()
    return follow.follow()


def _agree(context: Context, yes: bool) -> None:
    """Ask whether cryptrfs may be made anew. Raises StateError where there is no reason to."""
    if (context.record.state, context.where()) != (TRYING_ROOT, STAGE):
        raise StateError(
            "Only a cryptrfs that was restored and does not boot can be restored again.",
            data="Nothing was changed by this.",
            advice="'sudo crfs resume' goes on where it is",
        )
    print("What your services wrote to cryptrfs in its trial boots will be lost.")
    if not yes:
        common.confirm(
            f"Erase cryptrfs on {context.root_partition().path} and restore it from the stick?"
        )
