"""`crfs rollback`: put everything back, for as long as the card's plain root exists."""

from __future__ import annotations

import argparse
from pathlib import Path

from crfs import runner
from crfs.bootfiles import BootFiles
from crfs.commands import common, follow
from crfs.errors import StateError
from crfs.machine import Migration
from crfs.model import UNIT
from crfs.steps import FINISHING, TRYING_ROOT, Context
from crfs.worker import check_card, make_writable


def run(args: argparse.Namespace) -> int:
    common.require_root("rollback")
    found = common.read_journal()
    if found is None:
        raise StateError("There is no migration to roll back.", advice="nothing needs to be done")
    check_card(found[1])
    if found[1].destroyed or found[1].state in (TRYING_ROOT, FINISHING):
        raise StateError(
            "The way is forward: the card's plain root has been given up already, after its copy "
            "on the stick was compared with it and the HSM had unlocked that copy in a real boot.",
            data="Every byte is on the stick, and on cryptrfs as far as it is restored.",
            advice="'sudo crfs resume' completes the migration",
        )
    runner.run(["systemctl", "stop", UNIT], timeout=300)
    # The worker may have moved on before it stopped.
    again = common.read_journal()
    if again is None or again[1].destroyed:
        return run(args)
    journal, record = again
    make_writable(record)
    boot = BootFiles(Path(record.plan.boot.mount), record.plan)
    context = Context(journal, record, boot, report=lambda done, whole: None, say=print)
    Migration(context).roll_back()  # type: ignore[attr-defined]
    follow.start()
    return follow.follow()
