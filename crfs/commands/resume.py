"""`crfs resume`: go on with a run that stopped."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from crfs import fatfile, live
from crfs.bootfiles import BootFiles
from crfs.commands import common, follow
from crfs.errors import StateError
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
    make_writable(record)
    # The reason of the last failed trial boot is in the halt; left there, it would stop this too.
    fatfile.remove(BootFiles(Path(record.plan.boot.mount), record.plan).failure_note)
    journal.write(dataclasses.replace(record, halt=None, attempts=0, trials=0))
    follow.start()
    return follow.follow()
