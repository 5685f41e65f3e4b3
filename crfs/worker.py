"""The work itself, as `cfg_SD_crfs.service` runs it in all three phases (`crfs run`)."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crfs import (
    bootconfig,
    bootfiles,
    bootrecord,
    consent,
    failing,
    fatfile,
    keys,
    live,
    luks,
    model,
    probe,
    progress,
    runner,
)
from crfs.errors import (
    KEPT,
    BusyError,
    CommandError,
    CrfsError,
    DisagreementError,
    HsmError,
    JournalError,
    StateError,
)
from crfs.journal import FOLDER, Journal
from crfs.machine import MAX_ATTEMPTS, STATES, Migration
from crfs.model import Halt, Record, StepRecord
from crfs.steps import (
    BY_STATE,
    DONE,
    RESTORING,
    ROLLING_BACK,
    SETTLING,
    STAGING,
    TRYING_ROOT,
    TRYING_STAGE,
    Context,
    Step,
)
from crfs.steps.stage import close_stage, restart_services

_TRIES, _PAUSE = 3, 5.0  # a step that fails for a passing reason, seconds between tries


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Be the only run for a while. Raises BusyError."""
    folder = Path(live.LOCK).parent
    folder.mkdir(parents=True, exist_ok=True)
    # Whoever may log in may see how far the work is, whatever the unit's umask.
    folder.chmod(0o755)
    descriptor = os.open(live.LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    with open(descriptor, "rb"):
        os.fchmod(descriptor, 0o644)
        if not _lock(descriptor):
            raise BusyError(
                "crfs is at work already.",
                data="That run goes on undisturbed.",
                advice="'sudo crfs status --watch' follows it",
            )
        yield


def _lock(descriptor: int) -> bool:
    """Take the lock; whoever only asks for it (`live.is_running`) has it for a moment."""
    for pause in (0.1, 0.3, 1.0, None):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if pause is None:
                break
            time.sleep(pause)
        else:
            return True
    return False


def work(log: Any) -> int:
    """Go on with the run in the journal as far as this boot allows; return the exit code."""
    with locked():
        return _work(log)


def _work(log: Any) -> int:
    journal = Journal(probe.boot_mount())
    record = journal.read()
    if record is None:
        _forget(journal)
        log.info("there is no migration to go on with")
        return 0
    check_card(record)
    make_writable(record)
    shown = progress.Progress(record.plan, log)
    context = Context(
        journal=journal,
        record=record,
        boot=bootfiles.BootFiles(Path(record.plan.boot.mount), record.plan),
        report=shown.report,
        say=log.info,
        saved=shown.keep,
    )
    shown.keep(record)
    migration = Migration(context)
    if record.halt and (record.halt.needs_human or record.attempts >= MAX_ATTEMPTS):
        if migration.is_left_behind():
            migration.fall_back_and_disarm()
            context.save(halt=record.halt)
        log.error(f"stopped: {record.halt.what} Next: {record.halt.advice}", kind="stopped")
        shown.settle(migration.state, record.halt.what)
        return record.halt.code
    context.save(halt=None)
    try:
        halt = migration.reconcile()
        if halt is None:
            return _go_on(migration, shown, log)
    except Exception as problem:  # services must not stay stopped for a defect either
        failure = _as_ours(problem)
        halt = halt_of(failure)
        if isinstance(failure, CommandError | DisagreementError):
            halt = failing.blame(halt, context.record)
    return _halt(migration, shown, log, halt)


def _forget(journal: Journal) -> None:
    """There is no run any more. The folder goes last: until then the next boot comes here."""
    journal.remove()
    consent.withdraw()
    journal.remove_empty_folder()


def make_writable(record: Record) -> None:
    """Have the boot partition take the journal. Raises CommandError.

    It is read-only where its line in fstab wants that, or after an error in FAT: unless that is
    put right first, what is written next may go over other files.
    """
    folder = record.plan.boot.mount
    mount = probe.mount_of(folder)
    if mount is None or not mount.read_only:
        return
    try:
        runner.run(["umount", folder])
        try:
            runner.run(["fsck.vfat", "-a", mount.source], timeout=600, ok=(0, 1))
            runner.run(["mount", "-o", "rw", folder])
        except CommandError:
            runner.run(["mount", "-o", "ro", folder])
            raise
    except CommandError as problem:
        raise CommandError(
            f"The boot partition is read-only, and cannot be checked: {problem.what}",
            data=KEPT,
            advice=f"{problem.advice}; or reboot: it is checked then, and the work goes on by "
            "itself",
        ) from None


def check_card(record: Record) -> None:
    """The journal has to be this card's and this system's, and of a kind we know.

    Raises JournalError.
    """
    if record.state not in STATES:
        raise JournalError(
            f"The journal on the boot partition has the state '{record.state}', which this crfs "
            "does not know.",
            data="No disk was written to.",
            advice="install the version of crfs that began the migration, then 'sudo crfs resume'",
        )
    try:
        probe.find_card(record.plan.card, given_up=record.destroyed)
    except CrfsError as problem:
        raise JournalError(
            "The journal on the boot partition belongs to another card. " + problem.what,
            data="No disk was written to.",
            advice="put back the card that the migration was begun on, or a copy of it; keep the "
            "stick: until phase 3 has erased it, it holds the whole copy"
            if record.destroyed
            else "if this boot partition was copied from another card, remove its folder "
            f"'{FOLDER}'",
        ) from None
    if not consent.given(record.plan):
        raise JournalError(
            "The journal on the boot partition is not of a migration that was begun on this "
            f"system: {consent.FILE} does not have its plan.",
            data="No disk was written to.",
            advice="if you restored a backup of the boot partition, restore the root filesystem "
            f"of the same time; if not, remove the folder '{FOLDER}' from the boot partition",
        )


def _go_on(migration: Migration, shown: progress.Progress, log: Any) -> int:
    context = migration.context
    while migration.state != DONE:
        if migration.state == ROLLING_BACK:
            return _roll_back(context, shown, log)
        for step in BY_STATE[migration.state]:
            _do_step(context, migration.state, step, shown, log)
        if migration.state in (TRYING_STAGE, TRYING_ROOT):
            return _reboot(context, shown, log, trial=True)
        migration.advance()
    _complete(context, shown, log)
    return 0


def _do_step(context: Context, state: str, step: Step, shown: progress.Progress, log: Any) -> None:
    if step.id in context.record.finished and step.present(context):
        return
    shown.begin(state, step)
    if context.record.step != step.id:
        context.save(step=step.id, offset=0, finished=_still_finished(context, state, step))
    began = time.monotonic()
    for attempt in range(1, _TRIES + 1):
        try:
            step.do(context)
            break
        except (CommandError, HsmError) as failure:
            if attempt == _TRIES:
                raise
            log.error(f"{step.id}: {failure.what} Trying again.", step=step.id)
            time.sleep(_PAUSE)
    shown.end()
    seconds = round(time.monotonic() - began, 1)
    finished = (*(one for one in context.record.finished if one != step.id), step.id)
    done = StepRecord(step.id, seconds, round(step.bytes(context.plan)))
    others = tuple(one for one in context.record.done_steps if one.id != step.id)
    context.save(step="", finished=finished, offset=0, done_steps=(*others, done))
    log.info(f"{step.id}: done in {live.clock(seconds)}", kind="step_done", step=step.id)


def _still_finished(context: Context, state: str, step: Step) -> tuple[str, ...]:
    """What stays done when a step is done again.

    In phase 2 nothing that came after it: a root that is restored again has to be compared again.
    In phase 1 a step's own question to the devices decides.
    """
    if state != RESTORING:
        return context.record.finished
    order = [one.id for one in BY_STATE[state]]
    before = order[: order.index(step.id)]
    return tuple(one for one in context.record.finished if one in before)


def _reboot(context: Context, shown: progress.Progress, log: Any, *, trial: bool) -> int:
    """Reboot; with firmware that knows it, into a trial."""
    if context.where() == bootconfig.PLAIN:
        close_stage()
    log.info("rebooting now; the work goes on by itself", kind="rebooting")
    shown.settle(context.record.state, "rebooting")
    argv = ["systemctl", "reboot"]
    if trial and context.plan.boot.tryboot:
        argv.append("--reboot-argument=0 tryboot")
    runner.run(["sync"], timeout=900)
    if trial:
        context.save(trials=context.record.trials + 1)
    runner.run(argv, timeout=300)
    return 0


def _halt(migration: Migration, shown: progress.Progress, log: Any, halt: Halt) -> int:
    """Stop with a message; on the plain card the services run again."""
    context = migration.context
    # Running from another root in these states is a disagreement: nothing may be touched then.
    in_phase_1 = (
        migration.state in (STAGING, SETTLING, TRYING_STAGE) and context.where() == bootconfig.PLAIN
    )
    log.error(f"stopped: {halt.what} {halt.data} Next: {halt.advice}", kind="stopped")
    if in_phase_1:
        # Before anything can write to the root again: the copy is about to be out of date.
        try:
            migration.fall_back_and_disarm()
        except Exception as problem:  # nor may they for this one
            log.error(f"the boot configuration cannot be put back: {_as_ours(problem).what}")
            if probe.is_read_only("/"):
                # Services run again in another boot, which is one of an old copy by itself.
                _reboot(context, shown, log, trial=False)
                return halt.code
    try:
        context.save(halt=halt, attempts=context.record.attempts + 1)
        shown.settle(migration.state, halt.what)
    finally:
        if in_phase_1:
            _let_go(context)
    return halt.code


def _let_go(context: Context) -> None:
    """The plain system is in use again as if nothing had been."""
    try:
        close_stage()
    finally:
        restart_services(context)


def halt_of(failure: CrfsError) -> Halt:
    """What is kept of an error in the journal: one line each."""
    what, data, advice = (
        probe.printable_line(text)[:600] for text in (failure.what, failure.data, failure.advice)
    )
    human = isinstance(failure, DisagreementError)
    return Halt(failure.code, what, data, advice or "'sudo crfs resume'", human)


def _as_ours(problem: Exception) -> CrfsError:
    """Any failure as one with a message for people."""
    if isinstance(problem, CrfsError):
        return problem
    if isinstance(problem, OSError):
        return CommandError.of_system(problem, "sudo crfs resume")
    where = traceback.extract_tb(problem.__traceback__)[-1]
    return CrfsError(
        f"A defect in crfs: {problem!r} in {where.name}, line {where.lineno} of {where.filename}.",
        data=KEPT,
        advice="report it with this message; 'sudo crfs resume' tries again",
    )


def _complete(context: Context, shown: progress.Progress, log: Any) -> None:
    """Write the report to the encrypted root, then forget the run."""
    content = {
        "state": DONE,
        "run_id": context.plan.run_id,
        "binding": context.plan.binding,
        "card": model.dump(context.plan.card),
        "uuids": model.dump(context.plan.uuids),
        "cipher": model.dump(context.plan.cipher),
        "boot": model.dump(context.plan.boot),
        "keep_stage": context.plan.keep_stage,
        "steps": [model.dump(one) for one in context.record.done_steps],
    }
    report = Path(live.REPORT)
    report.parent.mkdir(mode=0o755, exist_ok=True)
    fatfile.replace(report, json.dumps(content, indent=1).encode())
    # No secret is in it, and `crfs status` works for everyone, whatever the unit's umask.
    report.parent.chmod(0o755)
    report.chmod(0o644)
    bootrecord.write(context.boot.folder)
    context.boot.remove_own()
    _forget(context.journal)
    shown.settle(DONE, "the root filesystem is encrypted")
    log.info(f"done: / is on cryptrfs, unlocked by the {context.binding.TITLE}", kind="done")


def _roll_back(context: Context, shown: progress.Progress, log: Any) -> int:
    """Everything back as it was; the card's root has not been touched."""
    if context.record.destroyed:
        raise StateError(
            "The card's plain root has been given up already; the way is forward.",
            data="The verified copy on the stick is whole.",
            advice="'sudo crfs resume'",
        )
    context.boot.restore()
    if context.where() == bootconfig.STAGE:
        log.info("going back to the card; the rest follows there")
        return _reboot(context, shown, log, trial=False)
    _let_go(context)
    stick = _erase_stage(context)
    context.boot.remove_own()
    _forget(context.journal)
    shown.settle("rolled_back", f"the card is as it was; {stick}")
    log.info(f"rolled back: the card is as it was; {stick}", kind="rolled_back")
    return 0


def _erase_stage(context: Context) -> str:
    """Destroy the keys on the stick; returns what is to be said of it."""
    failed = False
    sticks = probe.stages(context.plan.uuids.stage_luks)
    for stick in sticks:
        try:
            luks.erase(stick.path)
        except CommandError:
            # The card is safe without this, and a stick that does not take it never will.
            failed = True
    if failed:
        return "the stick could NOT be erased: pull it and destroy it"
    if sticks:
        return "the stick is erased"
    return "no stick with its copy is plugged in: if there is one, erase it by hand"


def main() -> int:
    """`crfs run`: only for the unit."""
    from crfs.log import logger

    log = logger()
    if not keys.protect_memory():
        log.error("memory cannot be locked: with swap on, pieces of the key may be written to it")
    try:
        return work(log)
    except CrfsError as failure:
        log.error(str(failure).replace("\n", " "), kind="stopped")
        return failure.code
