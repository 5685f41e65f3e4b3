"""The worker over steps that are data: whole journeys, cut anywhere, and single decisions."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crfs import bootrecord, consent, journal, live, probe, progress, steps, worker
from crfs.bootfiles import BootFiles
from crfs.errors import CommandError, CrfsError, DisagreementError, HsmError
from crfs.journal import Entry, Journal
from crfs.machine import MAX_ATTEMPTS, MAX_TRIALS
from crfs.model import Halt, Record
from crfs.steps import BY_STATE, Context, Step
from tests.unit.pi import OTHER_BOOT_ID, FakePi, build, record, snapshot


class PowerCut(BaseException):
    """Nothing catches it, as nothing catches a power cut."""


class World:
    """Devices that remember what the steps did to them; boots lead where the firmware would."""

    def __init__(self, pi: FakePi, patch: pytest.MonkeyPatch, *, tryboot: bool = True) -> None:
        self.pi = pi
        self.results: set[str] = set()
        self.log: list[str] = []
        self.default = "plain"
        self.armed = ""
        self.boots = [("plain", "default")]
        self.ticks = 0
        self.cuts: set[int] = set()
        self.plain_whole, self.stage_whole, self.root_whole = True, False, False
        self.fail: dict[str, Exception] = {}
        states = {
            state: tuple(self._fake(step) for step in found)
            for state, found in steps.BY_STATE.items()
        }
        patch.setattr(worker, "BY_STATE", states)
        patch.setattr(worker, "_PAUSE", 0)
        patch.setattr(probe, "firmware_has_tryboot", lambda: tryboot)
        self._keep_slots_quick(patch)
        write, remove = Journal.write, Journal.remove

        def ticking_write(self_: Journal, kept: Record) -> None:
            self.tick()
            write(self_, kept)
            self.tick()

        def ticking_remove(self_: Journal) -> None:
            self.tick()
            remove(self_)
            self.tick()

        patch.setattr(Journal, "write", ticking_write)
        patch.setattr(Journal, "remove", ticking_remove)

    def _keep_slots_quick(self, patch: pytest.MonkeyPatch) -> None:
        """Thousands of slots are written here; how they are coded is tested elsewhere."""
        entries: dict[bytes, Entry] = {}

        def encode(sequence: int, kept: Record) -> bytes:
            slot = b"%d of %d" % (sequence, len(entries))
            entries[slot.ljust(journal.SLOT_SIZE, b"\0")] = Entry(sequence, kept)
            return slot.ljust(journal.SLOT_SIZE, b"\0")

        patch.setattr(journal, "encode", encode)
        patch.setattr(journal, "decode", entries.get)

    def tick(self) -> None:
        self.ticks += 1
        if self.ticks in self.cuts:
            raise PowerCut

    def _fake(self, step: Step) -> Step:
        def do(context: Context) -> None:
            kept = Journal(self.pi.boot).read()
            assert kept is not None
            assert kept.step == step.id, "the journal says what is done before it is done"
            self.tick()
            if step.id in self.fail:
                raise self.fail[step.id]
            self._effect(step.id, context)
            self.results.add(step.id)
            self.log.append(step.id)
            self.tick()

        return dataclasses.replace(step, do=do, present=lambda context: step.id in self.results)

    def _effect(self, name: str, context: Context) -> None:
        match name:
            case "format-stick":
                self.stage_whole = False
            case "compare-stage":
                self.stage_whole = True
            case "arm-stage":
                self.armed = "stage"
            case "make-stage-default":
                assert self.stage_whole
                self.default = "stage"
            case "discard-root":
                assert self.pi.where == "stage"
                assert self.default == "stage"
                context.save(destroyed=True)
                self.plain_whole = False
            case "format-root":
                self.results -= {"restore"}
                self.root_whole = False
            case "compare-root":
                assert "restore" in self.results
                self.root_whole = True
            case "arm-root":
                self.armed = "root"
            case "make-root-default":
                assert self.pi.where == "root"
                self.default = "root"
            case "erase-stick":
                assert self.default == "root"
                self.stage_whole = False

    def boot(self) -> None:
        """The next boot: after a reboot as it was asked for, after a cut the default."""
        last = self.pi.effects[-1] if self.pi.effects else []
        trial = last[:2] == ["systemctl", "reboot"] and "tryboot" in last[-1]
        self.pi.effects.clear()
        where = self.armed if trial else self.default
        self.boots.append((where, "trial" if trial else "default"))
        self.armed = ""
        whole = {"plain": self.plain_whole, "stage": self.stage_whole, "root": self.root_whole}
        assert whole[where], f"booted a root that is not whole: {self.boots}"
        self.pi.where = where
        self.pi.unlocked = {"stage": {"cryptstage"}, "root": {"cryptrfs"}}.get(where, set())
        self.pi.boot_id = f"boot {len(self.boots)}"

    def begin(self) -> None:
        self.pi.journal.write(record("staging", str(self.pi.boot)))
        self.ticks = 0

    def run(self, boots: int = 30) -> None:
        """Let the unit run at every boot, until there is nothing more to do."""
        for _ in range(boots):
            try:
                code = self.pi.crfs("run").code
            except PowerCut:
                self.pi.effects.clear()
                self.boot()
                continue
            assert code == 0
            if not self.pi.journal.exists():
                return
            self.boot()
        raise AssertionError(f"no end: {self.boots}")

    def assert_arrived(self) -> None:
        assert self.pi.where == self.default == "root"
        assert self.root_whole
        assert not self.stage_whole
        assert not (self.pi.boot / journal.FOLDER).exists()
        assert not consent.FILE.exists()
        assert bootrecord.changes(self.pi.boot) == []
        report = json.loads(Path(live.REPORT).read_text())
        assert report["state"] == "done"
        # No step is left out of the report, whatever happened on the way.
        assert {one["id"] for one in report["steps"]} == {step.id for step in steps.ALL}


@pytest.fixture
def world(pi: FakePi, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(pi, monkeypatch)
    made.begin()
    return made


def test_journey(world: World) -> None:
    """Three phases, two reboots, each step once and in its order."""
    world.run()
    world.assert_arrived()
    assert world.log == [step.id for step in steps.ALL]
    assert world.boots == [("plain", "default"), ("stage", "trial"), ("root", "trial")]
    status = live.read()
    assert (status["state"], status["step"], status["overall"]) == ("done", "", 100.0)


def cuts_of_a_journey() -> range:
    """Two for each step and each write; a journey has fewer, the rest changes nothing."""
    return range(1, 190)


@pytest.mark.parametrize("cut", cuts_of_a_journey())
def test_journey_cut_once(world: World, cut: int) -> None:
    world.cuts = {cut}
    world.run()
    world.assert_arrived()


def test_every_moment_of_the_journey_is_cut(world: World) -> None:
    world.run()
    assert world.ticks < cuts_of_a_journey()[-1]


@given(st.sets(st.integers(min_value=1, max_value=400), max_size=12))
@example({54, 110, 146, 202})
def test_journey_cut_many_times(
    new_folder: Callable[[], Path],
    capsys: pytest.CaptureFixture[str],
    cuts: set[int],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        world = World(build(new_folder(), patch, capsys), patch)
        world.begin()
        world.cuts = cuts
        try:
            world.run()
        except AssertionError:
            # Trial boots that are cut again and again are given up for a person to look at.
            kept = world.pi.journal.read()
            assert kept is not None
            assert kept.halt is not None
            assert "trial boots" in kept.halt.what
            world.cuts = set()
            assert world.pi.crfs("resume").code == 0
            world.run()
        world.assert_arrived()


def test_folder_that_a_cut_has_left_empty_goes(pi: FakePi) -> None:
    """Between the removal of the last slot and that of its folder."""
    folder = pi.boot / journal.FOLDER
    folder.mkdir()
    assert pi.crfs("run").code == 0
    assert not folder.exists()
    folder.mkdir()
    (folder / "somebody's").touch()
    assert pi.crfs("run").code == 0
    assert folder.exists()


def test_root_restored_again_is_compared_again(world: World) -> None:
    """The proof of the first restore says nothing about the second."""
    world.pi.crfs("run")
    world.boot()
    world.fail["scrub"] = CommandError("no", advice="x")
    assert world.pi.crfs("run").code == 19
    assert world.root_whole
    world.fail.clear()
    world.boot()
    world.results -= {"format-root"}  # the header was damaged meanwhile
    world.run()
    world.assert_arrived()
    assert world.log.count("restore") == world.log.count("compare-root") == 2


@pytest.mark.parametrize("cut", range(1, 60))
def test_rollback_after_a_cut(world: World, cut: int) -> None:
    """As long as the plain root is there, everything goes back to it."""
    world.cuts = {cut}
    before = (world.pi.boot / "config.txt").read_bytes()
    with pytest.raises(PowerCut):
        world.pi.crfs("run")
    world.pi.effects.clear()
    world.boot()
    world.pi.superblocks[("/dev/sda", "UUID")] = record().plan.uuids.stage_luks
    world.pi.unit_works = True
    result = world.pi.crfs("rollback")
    assert result.code == 0, result
    assert not (world.pi.boot / journal.FOLDER).exists()
    assert (world.pi.boot / "config.txt").read_bytes() == before
    assert any(argv[:2] == ["cryptsetup", "luksErase"] for argv in world.pi.effects)
    assert {"zkifc.service", "zkbootrtc.service"} <= world.pi.active


@pytest.mark.parametrize(
    ("sticks", "fails", "told"),
    [
        (1, False, "the stick is erased"),
        (0, False, "no stick with its copy"),
        (1, True, "could NOT be erased"),
    ],
)
def test_rollback_tells_what_became_of_the_stick(
    world: World, sticks: int, fails: bool, told: str
) -> None:
    """A stick that cannot be written to, or is lost, must not keep the card from going back."""
    world.pi.journal.write(record("rolling_back", str(world.pi.boot)))
    if sticks:
        world.pi.superblocks[("/dev/sda", "UUID")] = record().plan.uuids.stage_luks

    def refuse(argv: list[str]) -> None:
        if fails and argv[0] == "dd":
            raise CommandError("No space left on device", advice="x")

    world.pi.on_run = refuse
    result = world.pi.crfs("run")
    assert result.code == 0
    assert told in result.err
    assert not world.pi.journal.read()
    assert "zkifc.service" in world.pi.active


def test_no_rollback_after_the_root_is_gone(world: World) -> None:
    world.pi.crfs("run")
    world.boot()
    world.cuts = {world.ticks + 30}
    with pytest.raises(PowerCut):
        world.pi.crfs("run")
    assert not world.plain_whole
    world.boot()
    world.pi.effects.clear()
    result = world.pi.refuses(["rollback"], 18, "The way is forward")
    assert "crfs resume" in result.err
    world.run()
    world.assert_arrived()


# --- single steps


def test_finished_steps_are_passed_over_if_the_devices_agree(world: World) -> None:
    kept = record("staging", str(world.pi.boot), finished=("seal-key", "format-stick"))
    world.pi.journal.write(kept)
    world.results = {"seal-key"}
    world.pi.crfs("run")
    assert world.log[:2] == ["format-stick", "make-filesystem"]


def context_of(pi: FakePi, kept: Record, patch: pytest.MonkeyPatch) -> Context:
    kept_journal = pi.journal
    kept_journal.write(kept)
    return Context(kept_journal, kept, _boot(pi, kept), lambda done, whole: None, print)


def _boot(pi: FakePi, kept: Record) -> BootFiles:
    return BootFiles(pi.boot, kept.plan)


@pytest.mark.parametrize(("resumed", "offset"), [("restore", 4096), ("compare-root", 0)])
def test_offset_belongs_to_its_step(
    pi: FakePi, monkeypatch: pytest.MonkeyPatch, resumed: str, offset: int
) -> None:
    """A step that was cut goes on at its offset; another one begins at the start."""
    kept = record("restoring", str(pi.boot), step="restore", offset=4096)
    context = context_of(pi, kept, monkeypatch)
    seen: list[int] = []
    step = next(one for one in steps.ALL if one.id == resumed)
    step = dataclasses.replace(step, do=lambda context: seen.append(context.record.offset))
    shown = progress.Progress(kept.plan, _Log())
    worker._do_step(context, "restoring", step, shown, _Log())
    assert seen == [offset]
    after = pi.journal.read()
    assert after is not None
    assert (after.step, after.offset, after.finished) == ("", 0, (resumed,))
    assert [one.id for one in after.done_steps] == [resumed]


class _Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, text: str, **fields: object) -> None:
        self.lines.append(text)

    def error(self, text: str, **fields: object) -> None:
        self.lines.append(text)


@pytest.mark.parametrize(
    ("failure", "tries"),
    [
        (CommandError("rsync failed", advice="look"), 3),
        (HsmError("silent", advice="look"), 3),
        (DisagreementError("differs", advice="look"), 1),
        (OSError(5, "Input/output error"), 1),
    ],
)
def test_passing_failures_are_tried_again(
    pi: FakePi, monkeypatch: pytest.MonkeyPatch, failure: Exception, tries: int
) -> None:
    monkeypatch.setattr(worker, "_PAUSE", 0)
    kept = record("staging", str(pi.boot))
    context = context_of(pi, kept, monkeypatch)
    calls = 0

    def do(context: Context) -> None:
        nonlocal calls
        calls += 1
        raise failure

    step = dataclasses.replace(steps.ALL[0], do=do)
    with pytest.raises(type(failure)):
        worker._do_step(context, "staging", step, progress.Progress(kept.plan, _Log()), _Log())
    assert calls == tries


def test_a_failure_that_passes_is_no_failure(pi: FakePi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_PAUSE", 0)
    kept = record("staging", str(pi.boot))
    context = context_of(pi, kept, monkeypatch)
    failures = [CommandError("once", advice="x"), CommandError("twice", advice="x")]

    def do(context: Context) -> None:
        if failures:
            raise failures.pop()

    step = dataclasses.replace(steps.ALL[0], do=do)
    worker._do_step(context, "staging", step, progress.Progress(kept.plan, _Log()), _Log())
    assert context.record.finished == (steps.ALL[0].id,)


# --- stopping


def kept_halt(pi: FakePi) -> Halt:
    kept = pi.journal.read()
    assert kept is not None
    assert kept.halt is not None
    return kept.halt


def test_halt_names_the_disk_that_fails(world: World) -> None:
    world.pi.kernel_log = "I/O error, dev sda, sector 8 op 0x1:(WRITE)\n"
    world.fail["settle"] = OSError(5, "Input/output error")
    assert world.pi.crfs("run").code == 19
    assert "errors of the stick (sda)" in kept_halt(world.pi).what
    world.fail["settle"] = HsmError("silent", advice="look")
    assert world.pi.crfs("run").code == 15
    assert "stick" not in kept_halt(world.pi).what


@pytest.mark.parametrize(
    ("failure", "code", "human"),
    [
        (CommandError("'rsync' failed\nwith exit code 11.", advice="two\nlines"), 19, False),
        (HsmError("silent", advice="look"), 15, False),
        (DisagreementError("differs", advice="look"), 20, True),
        (OSError(28, "No space left on device"), 19, False),
        (ZeroDivisionError("a defect of\ncrfs"), 10, False),
    ],
)
def test_halt(world: World, failure: Exception, code: int, human: bool) -> None:
    """It is kept for `crfs status`, and the system on the card goes on as before."""
    world.fail["settle"] = failure
    world.pi.active = {"crfs-stage.target"}
    result = world.pi.crfs("run")
    assert result.code == code
    halt = kept_halt(world.pi)
    assert (halt.code, halt.needs_human) == (code, human)
    for text in (halt.what, halt.data, halt.advice):
        assert text
        assert text.isprintable()
    assert {"zkifc.service", "zkbootrtc.service"} <= world.pi.active
    assert ["systemctl", "isolate", "--no-block", "default.target"] in world.pi.effects
    status = world.pi.crfs("status")
    assert halt.what in status.out
    assert "Next: " in status.out


def test_services_run_again_even_if_the_stick_cannot_be_let_go(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy() -> None:
        raise CommandError("target is busy")

    world.fail["settle"] = DisagreementError("differs", advice="look")
    monkeypatch.setattr(worker, "close_stage", busy)
    world.pi.active = {"crfs-stage.target"}
    assert world.pi.crfs("run").code == 19
    assert kept_halt(world.pi).what == "differs"
    assert ["systemctl", "isolate", "--no-block", "default.target"] in world.pi.effects


def test_read_only_root_is_given_back(world: World) -> None:
    world.fail["settle"] = CommandError("no", advice="x")
    world.pi.mounts["/"] = dataclasses.replace(world.pi.mounts["/"], options=("ro",))
    world.pi.crfs("run")
    assert ["mount", "-o", "remount,rw", "/"] in world.pi.effects


def test_a_boot_partition_that_fstab_mounts_read_only(world: World) -> None:
    boot = str(world.pi.boot)
    world.pi.mounts[boot] = dataclasses.replace(world.pi.mounts[boot], options=("ro",))
    world.pi.crfs("run")
    assert world.pi.effects[:3] == [
        ["umount", boot],
        ["fsck.vfat", "-a", "/dev/mmcblk0p1"],
        ["mount", "-o", "rw", boot],
    ]


def test_services_run_in_another_boot_if_the_journal_cannot_be_written(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this one a copy that is out of date could still be booted."""
    world.fail["settle"] = CommandError("no", advice="x")

    def fail(self: BootFiles) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(BootFiles, "disarm", fail)
    writable = world.pi.mounts["/"]
    world.pi.mounts["/"] = dataclasses.replace(writable, options=("ro",))
    assert world.pi.crfs("run").code == 19
    assert world.pi.effects[-1] == ["systemctl", "reboot"]
    assert not any("isolate" in argv for argv in world.pi.effects)
    world.pi.mounts["/"] = writable
    for number in range(2 * MAX_ATTEMPTS):
        world.pi.boot_id = f"boot {number}"
        world.pi.effects.clear()
        assert world.pi.crfs("run").code == 19
        assert ["systemctl", "reboot"] not in world.pi.effects, "it would reboot for ever"
    kept = world.pi.journal.read()
    assert kept is not None
    assert kept.attempts == MAX_ATTEMPTS


def test_services_run_again_after_a_defect_in_the_halt(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.fail["settle"] = CommandError("no", advice="x")

    def fail(self: BootFiles) -> None:
        raise ValueError("config.txt is not in list")

    monkeypatch.setattr(BootFiles, "disarm", fail)
    world.pi.active = {"crfs-stage.target"}
    assert world.pi.crfs("run").code == 19
    assert kept_halt(world.pi).what == "no"
    assert ["systemctl", "isolate", "--no-block", "default.target"] in world.pi.effects


def test_phase_2_does_not_start_services(world: World) -> None:
    world.pi.crfs("run")
    world.boot()
    world.fail["restore"] = CommandError("no", advice="x")
    world.pi.active = set()
    assert world.pi.crfs("run").code == 19
    assert not world.pi.active
    assert not any("isolate" in argv for argv in world.pi.effects)


def test_attempts_are_limited(world: World) -> None:
    """Each boot tries once more, up to a cap; then only a person can start it again."""
    world.fail["copy"] = CommandError("the same each time", advice="x")
    tried = 0
    for number in range(2 * MAX_ATTEMPTS):
        world.pi.boot_id = f"boot {number}"
        ticks = world.ticks
        assert world.pi.crfs("run").code == 19
        tried += world.ticks > ticks
    assert tried == MAX_ATTEMPTS
    world.fail.clear()
    world.pi.unit_works = True
    assert world.pi.crfs("resume").code == 0
    assert "arm-stage" in world.log


def test_attempts_are_limited_in_the_settling_too(world: World) -> None:
    """Services are stopped for it: that must not happen at every boot for ever."""
    world.fail["compare-stage"] = CommandError("the same each time", advice="x")
    for number in range(2 * MAX_ATTEMPTS):
        world.pi.boot_id = f"boot {number}"
        assert world.pi.crfs("run").code == 19
    assert world.log.count("stop-services") == MAX_ATTEMPTS


def test_trials_that_do_not_arrive_are_limited(world: World) -> None:
    """Each boot is one of the plain card; what has failed before the trial does not count."""
    for number in range(2 * MAX_TRIALS):
        world.pi.boot_id = f"boot {number}"
        world.pi.crfs("run")
    assert world.log.count("arm-stage") == MAX_TRIALS
    assert f"{MAX_TRIALS} trial boots" in kept_halt(world.pi).what


@pytest.mark.parametrize(("state", "where"), [("trying_stage", "plain"), ("trying_root", "stage")])
def test_only_trials_that_begin_are_counted(world: World, state: str, where: str) -> None:
    """What keeps one from being armed is to be told, not that boots have failed."""
    first = BY_STATE[state][0].id
    world.fail[first] = CommandError("it cannot be armed", advice="x")
    world.pi.where = where
    world.pi.journal.write(record(state, str(world.pi.boot), destroyed=where == "stage"))
    for number in range(MAX_TRIALS):
        world.pi.boot_id = f"boot {number}"
        assert world.pi.crfs("run").code == 19
        assert kept_halt(world.pi).what == "it cannot be armed"
    world.fail.clear()
    assert world.pi.crfs("run").code == 0
    kept = world.pi.journal.read()
    assert kept is not None
    assert (kept.state, kept.trials) == (state, 1)


def test_needs_human_waits(world: World) -> None:
    world.fail["compare-stage"] = DisagreementError("differs", advice="x")
    assert world.pi.crfs("run").code == 20
    world.pi.effects.clear()
    log, ticks = list(world.log), world.ticks
    world.pi.boot_id = OTHER_BOOT_ID
    assert world.pi.crfs("run").code == 20
    assert (world.log, world.ticks) == (log, ticks)
    assert not world.pi.effects


def test_a_plain_root_in_use_again_is_not_given_up_later(world: World) -> None:
    """Whoever goes back to it by hand may have new files there."""
    world.pi.crfs("run")
    world.boot()
    world.fail["discard-root"] = DisagreementError("in use", advice="x")
    assert world.pi.crfs("run").code == 20
    world.pi.where = "plain"
    for _ in range(2):
        assert world.pi.crfs("run").code == 20
    kept = world.pi.journal.read()
    assert kept is not None
    assert kept.state == "staging"
    assert kept_halt(world.pi).what == "in use"


@pytest.mark.parametrize("where", ["stage", "root"])
def test_disagreement_leaves_the_boot_files_alone(world: World, where: str) -> None:
    """This boot came from them: whatever the journal says, they lead to a root."""
    world.pi.where = where
    boot = _boot(world.pi, record("staging", str(world.pi.boot)))
    boot.make_default(where)
    before = snapshot(world.pi.boot)
    assert world.pi.crfs("run").code == 20
    after = snapshot(world.pi.boot)
    for name in ("config.txt", "cmdline.txt", f"crfs-{where}.txt"):
        assert after[name] == before[name]
    assert not world.log


@pytest.mark.parametrize("state", ["trying_stage", "trying_root"])
def test_resume_after_the_hsm_was_gone(world: World, state: str) -> None:
    """The note of the failed trial is spent: `resume` tries again instead of stopping again."""
    world.results = {step.id for step in steps.ALL}
    world.stage_whole = world.root_whole = True
    if state == "trying_root":
        world.default = world.pi.where = "stage"
        world.plain_whole = False
    kept = record(
        state, str(world.pi.boot), boot_id=OTHER_BOOT_ID, destroyed=state == "trying_root"
    )
    world.pi.journal.write(kept)
    _boot(world.pi, kept).failure_note.write_text("hsm: no answer\n")
    for _ in range(2):
        assert world.pi.crfs("run").code == 15
    assert "no answer" in kept_halt(world.pi).what
    world.pi.unit_works = True
    result = world.pi.crfs("resume")
    assert result.code == 0, result
    assert any(argv[:2] == ["systemctl", "reboot"] for argv in world.pi.effects)


def test_firmware_without_tryboot_is_not_given_its_argument(
    pi: FakePi, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(pi, monkeypatch)
    plain = record("trying_stage", str(pi.boot))
    boot = dataclasses.replace(plain.plan.boot, tryboot=False)
    plan = dataclasses.replace(plain.plan, boot=boot)
    consent.give(plan)
    pi.journal.write(dataclasses.replace(plain, plan=plan))
    pi.mounts["/"] = dataclasses.replace(pi.mounts["/"], options=("ro",))
    assert pi.crfs("run").code == 0
    assert pi.effects[-2:] == [["sync"], ["systemctl", "reboot"]]
    assert world.log == ["arm-stage"]


def test_nothing_to_do(pi: FakePi) -> None:
    assert pi.crfs("run").code == 0
    assert not pi.effects


def test_halts_are_one_line() -> None:
    halt = worker.halt_of(CommandError("a\nb\tc\x1b[2J", data="d\n\ne", advice=""))
    assert halt.what.startswith("a b c")
    for text in (halt.what, halt.data, halt.advice):
        assert text.isprintable()
    assert halt.advice


def test_lock_is_for_one(pi: FakePi) -> None:
    with worker.locked():
        assert live.is_running()
        with pytest.raises(CrfsError, match="at work"), worker.locked():
            pass
    assert not live.is_running()


def test_a_cut_at_the_very_end_leaves_nothing_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal is gone, what was agreed to is not: as long as its folder is there, it goes."""
    world.pi.journal.write(record("rolling_back", str(world.pi.boot)))
    consent.give(record("rolling_back", str(world.pi.boot)).plan)

    def cut_the_power() -> None:
        raise PowerCut

    with monkeypatch.context() as cut, pytest.raises(PowerCut):
        cut.setattr(consent, "withdraw", cut_the_power)
        world.pi.crfs("run")
    folder = world.pi.boot / journal.FOLDER
    assert (world.pi.journal.exists(), folder.exists(), consent.FILE.exists()) == (
        False,
        True,
        True,
    )
    assert world.pi.crfs("run").code == 0
    assert (folder.exists(), consent.FILE.exists()) == (False, False)
