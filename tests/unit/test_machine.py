"""Journal and devices are brought together: every state, every root, every history."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from crfs import bootconfig, bootfiles, machine, probe, steps
from crfs.bootfiles import BootFiles
from crfs.errors import DisagreementError
from crfs.journal import Journal
from crfs.machine import MAX_TRIALS, NEXT, STATES, Migration
from crfs.model import STAGE_MAPPING, Halt
from crfs.steps import Context
from tests.unit.pi import BOOT_ID, CONFIG, OTHER_BOOT_ID, record

ARMED = bootfiles.with_block(CONFIG, "crfs-stage-trial.txt")
WHERES = (bootconfig.PLAIN, bootconfig.STAGE, bootconfig.ROOT)


def migration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, where: str = "plain", **facts: Any
) -> Migration:
    """A machine whose journal says `state`, all its steps done, in a boot from `where`."""
    monkeypatch.setattr(probe, "running_from", lambda root, stage: where)
    monkeypatch.setattr(probe, "boot_id", lambda: BOOT_ID)
    unlocked = facts.pop("unlocked", True)
    monkeypatch.setattr(
        probe, "unlocked_by_itself", lambda mapping: unlocked and mapping == STAGE_MAPPING
    )
    read_only = facts.pop("read_only", True)
    monkeypatch.setattr(probe, "is_read_only", lambda target: read_only)
    note = facts.pop("note", False)
    facts.setdefault("finished", tuple(step.id for step in steps.BY_STATE.get(state, ())))
    kept = record(state, str(tmp_path), **facts)
    journal = Journal(tmp_path)
    journal.write(kept)
    boot = BootFiles(tmp_path, kept.plan)
    boot.config.write_bytes(ARMED)
    if note:
        boot.failure_note.write_text("hsm: no answer\x1b[2J on the bus\n")
    return Migration(Context(journal, kept, boot, lambda done, whole: None, lambda text: None))


def expected(
    state: str,
    where: str,
    same: bool,
    note: bool,
    spent: bool,
    destroyed: bool,
    unlocked: bool,
    read_only: bool,
) -> str:
    """The outcome by the design: a state, "halt" or "disagreement"."""
    if state == "rolling_back":
        return state
    if where == bootconfig.PLAIN:
        if state == "staging":
            return "staging"
        if state == "settling":
            return "settling" if same else "staging"
        if state == "trying_stage":
            if same:
                return state if read_only else "staging"
            return "halt" if note or spent else "staging"
        if state == "restoring" and not destroyed:
            return "staging"
    if where == bootconfig.STAGE:
        if state == "trying_stage":
            return "restoring" if unlocked else "disagreement"
        if state == "restoring":
            return state
        if state == "trying_root":
            if same:
                return state
            return "halt" if note or spent else state
        if state == "finishing":
            return "trying_root"
    if where == bootconfig.ROOT:
        if state == "trying_root":
            return "finishing"
        if state in ("finishing", "done"):
            return state
    return "disagreement"


@pytest.mark.parametrize("where", WHERES)
@pytest.mark.parametrize("state", STATES)
def test_reconcile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, where: str) -> None:
    for number, (same, note, spent, destroyed, unlocked, read_only) in enumerate(
        itertools.product((True, False), repeat=6)
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        one = migration(
            folder,
            monkeypatch,
            state,
            where,
            note=note,
            unlocked=unlocked,
            destroyed=destroyed,
            read_only=read_only,
            boot_id=BOOT_ID if same else OTHER_BOOT_ID,
            trials=MAX_TRIALS if spent else 1,
        )
        try:
            halt = one.reconcile()
            outcome = "halt" if halt else one.state
        except DisagreementError as problem:
            assert problem.advice
            assert state in problem.what or "HSM" in problem.what
            outcome = "disagreement"
            halt = None
        history = f"{same=} {note=} {spent=} {destroyed=} {unlocked=} {read_only=}"
        wanted = expected(state, where, same, note, spent, destroyed, unlocked, read_only)
        assert outcome == wanted, history
        kept = Journal(folder).read()
        assert kept is not None
        # Back in phase 1 with services running, no boot may lead to the stick, which goes stale.
        stale = kept.state == "staging" and state != "staging"
        assert (folder / "config.txt").read_bytes() == (CONFIG if stale else ARMED), history
        if outcome in STATES:
            assert kept.state == outcome, history
            assert one.context.record == kept
        elif halt and state == "trying_stage":
            assert kept.state == "staging", "services run again: the copy is out of date"
        else:
            assert kept.state == state
        if halt:
            assert halt.needs_human
            assert halt.advice


def fell_back(one: Migration) -> Halt:
    halt = one.reconcile()
    assert halt is not None
    return halt


def test_note_of_the_initramfs_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = migration(tmp_path, monkeypatch, "trying_stage", note=True, boot_id=OTHER_BOOT_ID)
    halt = fell_back(one)
    assert halt.code == 15
    assert "no answer" in halt.what
    assert halt.what.isprintable()
    assert "rollback" in halt.advice


def test_no_way_back_from_the_stick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = migration(
        tmp_path, monkeypatch, "trying_root", bootconfig.STAGE, note=True, boot_id=OTHER_BOOT_ID
    )
    halt = fell_back(one)
    assert "rollback" not in halt.advice
    assert "stick is whole" in halt.data


@pytest.mark.parametrize(
    ("state", "where"), [("trying_stage", bootconfig.PLAIN), ("trying_root", bootconfig.STAGE)]
)
def test_trials_are_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, where: str
) -> None:
    """A trial that never arrives is tried a few times, then a person is asked."""
    one = migration(tmp_path, monkeypatch, state, where, boot_id=OTHER_BOOT_ID, trials=1)
    for boots in range(1, 10):
        if one.reconcile():
            break
        if where == bootconfig.PLAIN:
            one.advance()  # settling
            one.advance()  # trying_stage again
        one.context.save(trials=one.context.record.trials + 1)  # as the worker does it
        monkeypatch.setattr(probe, "boot_id", lambda boots=boots: f"boot {boots}")
    assert boots == MAX_TRIALS


@pytest.mark.parametrize("note", [False, True])
@pytest.mark.parametrize("state", ["trying_stage", "trying_root"])
def test_a_root_that_never_boots_can_be_restored_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, note: bool
) -> None:
    """A card that has lost what it was compared with fails the same trial again and again."""
    where = bootconfig.STAGE if state == "trying_root" else bootconfig.PLAIN
    one = migration(
        tmp_path,
        monkeypatch,
        state,
        where,
        note=note,
        boot_id=OTHER_BOOT_ID,
        trials=MAX_TRIALS,
    )
    advice = fell_back(one).advice
    # Where the HSM has refused, it is not the card that needs it.
    again = state == "trying_root" and not note
    assert ("'sudo crfs resume --restore-again'" in advice) == again
    assert ("'sudo crfs rollback'" in advice) == (state == "trying_stage")


@pytest.mark.parametrize("note", [False, True])
def test_a_trial_from_the_stick_that_fails_has_the_initramfs_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, note: bool
) -> None:
    """Nothing else would: what it was built from has not changed for those who look at the card."""
    one = migration(
        tmp_path, monkeypatch, "trying_stage", note=note, boot_id=OTHER_BOOT_ID, fingerprint="f"
    )
    one.reconcile()
    assert one.context.record.fingerprint == ""
    assert Journal(tmp_path).read() == one.context.record


@pytest.mark.parametrize("destination", ["restoring", "finishing"])
def test_arrival_gives_the_next_phase_its_own_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, destination: str
) -> None:
    state, where = {
        "restoring": ("trying_stage", bootconfig.STAGE),
        "finishing": ("trying_root", bootconfig.ROOT),
    }[destination]
    one = migration(tmp_path, monkeypatch, state, where, trials=2, boot_id=OTHER_BOOT_ID)
    assert one.reconcile() is None
    assert (one.state, one.context.record.trials) == (destination, 0)


@pytest.mark.parametrize("state", sorted(NEXT))
def test_state_is_on_the_medium_before_it_is_entered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    one = migration(tmp_path, monkeypatch, state, step="x", finished=("a",), offset=7, attempts=1)
    write = one.context.journal.write
    seen: list[tuple[str, str]] = []

    def spy(kept: Any) -> None:
        seen.append((one.state, kept.state))
        write(kept)

    monkeypatch.setattr(one.context.journal, "write", spy)
    one.advance()
    assert seen == [(state, one.state)]
    kept = Journal(tmp_path).read()
    assert kept is not None
    assert (kept.state, kept.step, kept.finished, kept.offset) == (one.state, "", (), 0)
    assert kept.boot_id == BOOT_ID


@pytest.mark.parametrize("state", sorted(NEXT))
def test_state_is_not_entered_when_it_cannot_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    one = migration(tmp_path, monkeypatch, state)

    def fail(kept: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(one.context.journal, "write", fail)
    with pytest.raises(OSError, match="Input"):
        one.advance()
    assert one.state == state


def test_failures_of_a_phase_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Falling back must not forget them: the services would be stopped at each boot for ever."""
    one = migration(tmp_path, monkeypatch, "settling", boot_id=OTHER_BOOT_ID, attempts=3)
    assert one.reconcile() is None
    assert one.state == "staging"
    one.advance()
    assert one.state == "settling"
    assert one.context.record.attempts == 3


def test_rollback_can_be_asked_for_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = migration(tmp_path, monkeypatch, "staging")
    for _ in range(2):
        one.roll_back()  # type: ignore[attr-defined]
        assert one.state == "rolling_back"


def test_no_rollback_when_the_plain_root_is_gone() -> None:
    sources = {name: source for name, source, _ in machine.TRANSITIONS}["roll_back"]
    assert not {"trying_root", "finishing", "done"} & set(sources)


def test_every_state_with_steps_leads_on() -> None:
    triggers = {name: (source, target) for name, source, target in machine.TRANSITIONS}
    for state in steps.BY_STATE:
        if state in ("trying_stage", "trying_root"):
            continue  # a boot leads on from there
        assert triggers[NEXT[state]][0] == state
    assert {target for _, _, target in machine.TRANSITIONS} | {"staging"} == set(STATES)


def test_only_declared_triggers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = migration(tmp_path, monkeypatch, "staging")
    assert not hasattr(one, "to_done")
    with pytest.raises(Exception, match="Can't trigger event"):
        one.complete()  # type: ignore[attr-defined]
    assert one.state == "staging"
