"""status, verify, resume and the following of the worker, as a user sees them."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from crfs import __version__, bootrecord, consent, fatfile, live, worker
from crfs.bootfiles import BootFiles
from crfs.commands import follow
from crfs.commands.follow import _Line
from crfs.errors import CommandError
from crfs.journal import SLOTS, Journal
from crfs.live import render
from crfs.model import STAGE_MAPPING, UNIT, Halt, Record, StepRecord
from crfs.steps import BY_STATE
from tests.unit.pi import FakePi, plan, record, snapshot

LIVE = {
    "state": "staging",
    "step": "copy",
    "title": "Copy the root",
    "percent": 41.4,
    "overall": 12.34,
    "seconds_left": 300,
    "message": "",
}


# --- status


def test_services_run_again_when_the_terminal_is_closed_at_the_question(
    pi: FakePi, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(pi.boot)
    active = set(pi.active)
    monkeypatch.setattr(
        "crfs.commands.encrypt.confirm", lambda question: os.kill(os.getpid(), signal.SIGHUP)
    )
    try:
        assert pi.crfs("encrypt").code == 128 + signal.SIGHUP
    finally:
        for one in (signal.SIGHUP, signal.SIGTERM):
            signal.signal(one, signal.SIG_DFL)
    assert pi.active == active
    assert snapshot(pi.boot) == before


@pytest.mark.parametrize("before", [signal.SIG_DFL, signal.SIG_IGN])
def test_who_only_follows_does_not_hold_up_a_reboot(
    pi: FakePi, monkeypatch: pytest.MonkeyPatch, before: signal.Handlers
) -> None:
    """Ended by the system as anything else in a session; nohup's wish is kept."""
    found: list[Any] = []

    def look() -> int:
        found.append(signal.getsignal(signal.SIGTERM))
        return 0

    monkeypatch.setattr(follow, "follow", look)
    signal.signal(signal.SIGTERM, before)
    try:
        assert pi.crfs("encrypt", "--yes").code == 0
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert found == [before]


def test_a_beginning_that_fails_leaves_nothing_to_go_on_with(
    pi: FakePi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No room for the second slot, and the HSM's service does not come back."""
    before = snapshot(pi.boot)
    real = fatfile.replace

    def replace(path: Path, content: bytes) -> None:
        if path.name == SLOTS[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, content)

    def refuse(argv: list[str]) -> None:
        if argv[:2] == ["systemctl", "start"]:
            raise CommandError("it does not start", advice="look")

    monkeypatch.setattr(fatfile, "replace", replace)
    pi.on_run = refuse
    assert pi.crfs("encrypt", "--yes").code == 19
    assert snapshot(pi.boot) == before


def test_what_was_agreed_to_is_taken_back_whatever_else_cannot_be(
    pi: FakePi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A boot partition that has become read-only keeps the journal."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Journal, "write", refuse)
    monkeypatch.setattr(Journal, "remove", refuse)
    assert pi.crfs("encrypt", "--yes").code == 19
    assert not consent.FILE.exists()


def test_status_of_nothing(pi: FakePi) -> None:
    result = pi.crfs("status")
    assert (result.code, result.out) == (0, "No migration has begun on this card.\n")


@pytest.mark.parametrize("command", ["status", "resume", "rollback"])
def test_boot_partition_is_not_mounted(pi: FakePi, command: str) -> None:
    """No journal in an empty folder is no reason to say that nothing has begun."""
    pi.journal.write(record("restoring", str(pi.boot), destroyed=True))
    pi.mounts.pop(str(pi.boot))
    pi.boot.rename(pi.boot.with_name("elsewhere"))
    pi.boot.mkdir()
    result = pi.refuses([command], 12, "No boot partition is mounted")
    assert "sudo mount /boot/firmware" in result.err
    assert "untouched" not in result.err


@pytest.mark.parametrize(
    ("line", "mounted"),
    [
        ("/dev/mmcblk0p1 /boot/firmware vfat rw,relatime 0 0", True),
        ("/dev/mmcblk0p1 /boot vfat ro 0 0", True),
        ("systemd-1 /boot/firmware autofs rw 0 0", False),
        ("/dev/nvme0n1p1 /boot ext4 rw 0 0", False),
        ("/dev/sda1 /mnt/boot vfat rw 0 0", False),
    ],
)
def test_boot_is_mounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, mounted: bool
) -> None:
    (tmp_path / "mounts").write_text(f"proc /proc proc rw 0 0\n{line}\n")
    monkeypatch.setattr(live, "MOUNTS", str(tmp_path / "mounts"))
    assert live.boot_is_mounted() == mounted


def test_status_of_an_encrypted_pi_needs_no_boot_partition(pi: FakePi) -> None:
    Path(live.REPORT).write_text(json.dumps({"state": "done"}))
    pi.mounts.pop(str(pi.boot))
    assert pi.crfs("status").code == 0


@pytest.mark.parametrize("state", [*BY_STATE, "rolling_back"])
def test_status_of_each_state(pi: FakePi, state: str) -> None:
    pi.journal.write(record(state, str(pi.boot)))
    result = pi.crfs("status")
    assert result.code == 0
    assert state not in result.out, "each state is explained in words"
    assert "crfs resume" in result.out
    told = json.loads(pi.crfs("status", "--json").out)
    assert (told["state"], told["running"], told["halt"]) == (state, False, None)
    assert not pi.changes()


def test_status_of_a_halt(pi: FakePi) -> None:
    halt = Halt(15, "The HSM was silent.", "The card is untouched.", "look at the LED", True)
    pi.journal.write(record("staging", str(pi.boot), halt=halt))
    for argv in (["status"], ["status", "--watch"]):
        out = pi.crfs(*argv).out
        assert "Stopped: The HSM was silent.\nThe card is untouched.\nNext: look at the LED" in out
    told = json.loads(pi.crfs("status", "--json").out)
    assert told["halt"]["code"] == 15


def test_status_while_it_works(pi: FakePi) -> None:
    pi.journal.write(record("staging", str(pi.boot), step="copy"))
    live.write(LIVE)
    with worker.locked():
        result = pi.crfs("status")
    assert "12.3 % in all | Copy the root: 41 % | about 5 min left" in result.out
    assert "Next" not in result.out


def test_status_when_it_is_done(pi: FakePi, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(live.REPORT).write_text(json.dumps({"state": "done", "steps": [{"id": "copy"}]}))
    assert pi.crfs("status").out.startswith("Done")
    assert json.loads(pi.crfs("status", "--json").out)["steps"] == [{"id": "copy"}]


def test_status_lists_steps(pi: FakePi) -> None:
    done = (StepRecord("copy", 1.5, 10),)
    pi.journal.write(record("settling", str(pi.boot), done_steps=done))
    told = json.loads(pi.crfs("status", "--json").out)
    assert told["steps"] == [{"id": "copy", "seconds": 1.5, "bytes": 10}]


# --- following


def test_render() -> None:
    assert render(LIVE) == " 12.3 % in all | Copy the root: 41 % | about 5 min left"
    assert render({"state": "done", "step": "", "message": "over"}) == "over"
    assert render({"state": "done"}) == "done"
    assert render({}) == ""


def test_lines_elsewhere_than_on_a_terminal_are_few() -> None:
    said: list[str] = []
    line = _Line(said.append)
    line._terminal = False
    for percent in range(100):
        line.show({**LIVE, "percent": float(percent)})
    assert len(said) == 10
    line.show({})
    assert len(said) == 10


def test_line_on_a_terminal_stays_in_its_place() -> None:
    said: list[str] = []
    line = _Line(said.append)
    line._terminal = True
    for _ in range(2):
        line.show({**LIVE, "title": "x" * 300})
    assert len(said) == 2
    assert all(one.startswith("\r") and "\n" not in one and len(one) < 130 for one in said)


def test_follow_ends_with_the_worker(pi: FakePi) -> None:
    live.write({"state": "done", "step": "", "message": "everything is encrypted"})
    assert follow.follow() == 0
    assert "everything is encrypted" in pi.capsys.readouterr().out


def test_follow_tells_why_it_stopped(pi: FakePi) -> None:
    halt = Halt(13, "The stick was pulled.", "The card is untouched.", "plug it in")
    pi.journal.write(record("staging", str(pi.boot), halt=halt))
    with pytest.raises(Exception, match="stick was pulled") as caught:
        follow.follow()
    assert getattr(caught.value, "code", 0) == 13


def test_follow_of_a_worker_that_could_not_begin(pi: FakePi) -> None:
    """Nothing is in the journal then; it is a failure all the same."""
    pi.failed = True
    with pytest.raises(Exception, match="failure") as caught:
        follow.follow()
    assert getattr(caught.value, "code", 0) == 19


def test_leaving_does_not_stop_the_work(pi: FakePi, monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(follow, "_state", lambda: "active")
    monkeypatch.setattr("time.sleep", leave)
    assert follow.follow() == 0
    assert "The work goes on" in pi.capsys.readouterr().out
    assert not pi.effects


# --- resume


def test_resume_clears_the_halt_and_starts_the_unit(pi: FakePi) -> None:
    halt = Halt(20, "differs", "data", "advice", True)
    kept = record("staging", str(pi.boot), halt=halt, attempts=5, trials=3, offset=7)
    pi.journal.write(kept)
    assert pi.crfs("resume").code == 0
    after = pi.journal.read()
    assert after == dataclasses.replace(kept, halt=None, attempts=0, trials=0)
    assert pi.effects[-1] == ["systemctl", "start", UNIT]


@pytest.mark.parametrize("command", ["resume", "rollback"])
def test_a_boot_partition_that_has_become_read_only(pi: FakePi, command: str) -> None:
    """As FAT does by itself after an error: both write the journal before the worker does."""
    boot = str(pi.boot)
    pi.journal.write(record("staging", boot))
    pi.mounts[boot] = dataclasses.replace(pi.mounts[boot], options=("ro",))
    pi.crfs(command)
    at = pi.effects.index(["umount", boot])
    assert pi.effects[at + 1 : at + 3] == [
        ["fsck.vfat", "-a", "/dev/mmcblk0p1"],
        ["mount", "-o", "rw", boot],
    ]
    assert pi.effects[-1] == ["systemctl", "start", UNIT]


@pytest.mark.parametrize(
    ("failing", "after"),
    [
        ("umount", []),
        ("fsck.vfat", [["mount", "-o", "ro"]]),
        ("rw", [["mount", "-o", "ro"]]),
    ],
)
def test_a_boot_partition_that_cannot_be_checked_is_not_written_to(
    pi: FakePi, failing: str, after: list[list[str]]
) -> None:
    boot = str(pi.boot)
    pi.journal.write(record("staging", boot))
    pi.mounts[boot] = dataclasses.replace(pi.mounts[boot], options=("ro",))

    def fail(argv: list[str]) -> None:
        if failing in argv:
            raise CommandError(f"'{failing}' failed with exit code 32.", advice="target is busy")

    pi.on_run = fail
    before = snapshot(pi.boot)
    result = pi.crfs("resume")
    assert result.code == 19
    assert "Next: target is busy; or reboot" in result.err
    assert snapshot(pi.boot) == before
    at = [failing in one for one in pi.effects].index(True)
    assert pi.effects[at + 1 :] == [[*one, boot] for one in after]


def test_resume_while_it_works_only_follows(pi: FakePi) -> None:
    pi.journal.write(record("staging", str(pi.boot)))
    with worker.locked():
        assert pi.crfs("resume").code == 0
    assert not pi.effects


STOPPED = Halt(18, "3 trial boots from cryptrfs did not reach their goal.", "data", "advice", True)
RESTORE_AGAIN = ["resume", "--restore-again", "--yes"]


@pytest.fixture
def fallen_back(pi: FakePi) -> FakePi:
    """Trials of cryptrfs have failed, and crfs has stopped, on the stick; one is armed still."""
    pi.where = "stage"
    pi.unlocked = {STAGE_MAPPING}
    facts = {"destroyed": True, "halt": STOPPED, "trials": 3, "finished": ("arm-root",)}
    kept = record("trying_root", str(pi.boot), **facts)
    pi.journal.write(kept)
    BootFiles(pi.boot, kept.plan).arm("root")
    return pi


def test_a_root_that_does_not_boot_can_be_restored_again(fallen_back: FakePi) -> None:
    assert fallen_back.crfs(*RESTORE_AGAIN).code == 0
    after = fallen_back.journal.read()
    assert after is not None
    assert (after.state, after.finished, after.destroyed) == ("restoring", (), True)
    assert (after.halt, after.trials, after.attempts) == (None, 0, 0)
    assert BootFiles(fallen_back.boot, after.plan).is_default("stage")
    assert fallen_back.effects[-1] == ["systemctl", "start", UNIT]


def test_no_boot_leads_to_what_is_restored_again(
    fallen_back: FakePi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without tryboot an armed trial is what the firmware boots."""
    without = plan(str(fallen_back.boot), tryboot=False)
    consent.give(without)
    kept = record("trying_root", str(fallen_back.boot), destroyed=True, halt=STOPPED)
    fallen_back.journal.write(dataclasses.replace(kept, plan=without))
    boot = BootFiles(fallen_back.boot, without)
    boot.arm("root")
    assert not boot.is_default("stage")

    def fail(self: Journal, kept: Record) -> None:
        assert boot.is_default("stage"), "before the journal says that it is restored"
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Journal, "write", fail)
    assert fallen_back.crfs(*RESTORE_AGAIN).code == 19


def test_restoring_again_is_asked_for(fallen_back: FakePi, monkeypatch: pytest.MonkeyPatch) -> None:
    result = fallen_back.refuses(RESTORE_AGAIN[:2], 23, "no terminal")
    assert "untouched" not in result.err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    asked: list[str] = []

    def decline(text: str) -> str:
        asked.append(text)
        return "no"

    monkeypatch.setattr("builtins.input", decline)
    fallen_back.refuses(RESTORE_AGAIN[:2], 23, "did not say yes")
    assert "will be lost" in asked[0]
    kept = fallen_back.journal.read()
    assert kept is not None

    def answer_late(text: str) -> str:
        """Somebody has typed 'crfs resume' elsewhere, and the trial is about to begin."""
        fallen_back.journal.write(dataclasses.replace(kept, halt=None, trials=1))
        return "yes"

    monkeypatch.setattr("builtins.input", answer_late)
    assert fallen_back.crfs(*RESTORE_AGAIN[:2]).code == 18
    after = fallen_back.journal.read()
    assert after is not None
    assert after.state == "trying_root"


def test_restoring_again_while_it_works(fallen_back: FakePi) -> None:
    with worker.locked():
        fallen_back.refuses(RESTORE_AGAIN, 16, "at work")


@pytest.mark.parametrize(
    ("state", "where", "halt"),
    [
        ("staging", "plain", STOPPED),
        ("trying_stage", "plain", STOPPED),
        ("restoring", "stage", STOPPED),
        ("trying_root", "stage", None),
        ("trying_root", "root", STOPPED),
        ("finishing", "root", STOPPED),
    ],
)
def test_nothing_else_is_restored_again(
    pi: FakePi, state: str, where: str, halt: Halt | None
) -> None:
    pi.where = where
    pi.unlocked = {STAGE_MAPPING}
    pi.journal.write(record(state, str(pi.boot), destroyed=state != "staging", halt=halt))
    pi.refuses(RESTORE_AGAIN, 18, "whose trial boots have failed")


def test_nothing_is_restored_from_a_stick_that_the_hsm_did_not_unlock(
    fallen_back: FakePi,
) -> None:
    """What is erased could not be opened again either."""
    fallen_back.unlocked = set()
    fallen_back.refuses(RESTORE_AGAIN, 18, "not the HSM")


# --- verify


def failing(pi: FakePi) -> set[str]:
    rows = json.loads(pi.crfs("verify", "--json").out)
    return {one["id"] for one in rows if not one["ok"]}


def test_verify_all_is_well(encrypted: FakePi) -> None:
    result = encrypted.crfs("verify")
    assert result.code == 0, result
    assert "MISSING" not in result.out
    assert failing(encrypted) == set()
    assert not encrypted.effects
    assert not (encrypted.folder / "run/verify").exists()


def test_verify_of_a_plain_pi(pi: FakePi) -> None:
    result = pi.crfs("verify")
    assert result.code == 21
    assert "MISSING the root filesystem is on cryptrfs" in result.out
    assert "Next: " in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("missing", "check"),
    [
        (lambda pi: setattr(pi, "root", "/dev/mmcblk0p2"), "root-on-cryptrfs"),
        (lambda pi: pi.mappings.clear(), "root-on-cryptrfs"),
        (lambda pi: pi.rows[0]["children"][1].update(partuuid="x"), "partition"),
        (lambda pi: Path(live.REPORT).unlink(), "partition"),
        (lambda pi: Path(live.REPORT).write_text("{}"), "partition"),
        (lambda pi: Path(live.REPORT).write_text('{"card": 5}'), "partition"),
        (lambda pi: pi.unlocked.clear(), "unlocked-by-hsm"),
        (lambda pi: pi.active.clear(), "zkifc"),
        (lambda pi: (pi.boot / "crfs-stage.txt").touch(), "nothing-left"),
        (lambda pi: (pi.boot / "config.txt.crfs-new").touch(), "nothing-left"),
        (lambda pi: (pi.boot / "crfs").mkdir(), "nothing-left"),
        (lambda pi: pi.rows[1].update(label="crfs-stage"), "nothing-left"),
        (lambda pi: (pi.folder / "mapper/cryptstage").touch(), "nothing-left"),
        (lambda pi: (pi.boot / "crfs-initramfs").unlink(), "initramfs boot-files"),
        (lambda pi: (pi.folder / "var/lib/zymbit/key.bin.lock").write_bytes(b"new"), "initramfs"),
        (lambda pi: (pi.folder / "var/lib/zymbit/more").touch(), "initramfs"),
        (lambda pi: bootrecord.FILE.unlink(), "boot-files"),
        (lambda pi: (pi.boot / "cmdline.txt").write_text("init=/bin/sh"), "boot-files"),
        (lambda pi: (pi.boot / "config.txt").write_text("cmdline=other.txt"), "boot-files"),
        (lambda pi: (pi.boot / "kernel8.img").write_bytes(b"other"), "boot-files"),
        (lambda pi: (pi.boot / "kernel_2712.img").touch(), "boot-files"),
    ],
)
def test_verify_finds_what_is_missing(encrypted: FakePi, missing: Any, check: str) -> None:
    missing(encrypted)
    assert failing(encrypted) == set(check.split())
    result = encrypted.crfs("verify")
    assert result.code == 21
    assert all(one in result.err for one in check.split())


def test_verify_takes_a_change_of_the_boot_files_for_right_when_told(encrypted: FakePi) -> None:
    (encrypted.boot / "config.txt").write_text("dtparam=spi=on\n")
    result = encrypted.crfs("verify")
    assert "config.txt has changed ('sudo crfs verify --record' if by you)" in result.out
    assert encrypted.crfs("verify", "--record").code == 0
    assert encrypted.crfs("verify").code == 0


def test_verify_knows_that_the_stick_was_to_be_kept(encrypted: FakePi) -> None:
    encrypted.rows[1].update(label="crfs-stage")
    assert failing(encrypted) == {"nothing-left"}
    report = json.loads(Path(live.REPORT).read_text())
    Path(live.REPORT).write_text(json.dumps({**report, "keep_stage": True}))
    assert failing(encrypted) == set()


# --- the rest of the command line


def test_version_and_help(pi: FakePi) -> None:
    assert pi.crfs("--version").out == f"crfs {__version__}\n"
    shown = pi.crfs("--help").out
    for command in ("encrypt", "status", "resume", "rollback", "verify", "rehearse"):
        assert command in shown
        assert pi.crfs(command, "--help").code == 0


def test_interrupt_is_no_traceback(pi: FakePi, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("crfs.commands.status.collect", interrupt)
    result = pi.crfs("status")
    assert result.code == 130
    assert "Traceback" not in result.err


@pytest.mark.real_commands
@pytest.mark.parametrize("argv", [["status"], ["--help"], ["encrypt", "--help"]])
def test_quick_commands_import_nothing_heavy(argv: list[str]) -> None:
    code = "from crfs import live\nlive.boot_is_mounted = lambda: True\n"  # as on a Pi
    code += (
        f"import sys\nfrom crfs import cli\ntry:\n cli.main({argv})\nexcept SystemExit:\n pass\n"
    )
    code += "print(*sys.modules, sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, '.')\n{code}"],
        check=True,
        capture_output=True,
        text=True,
    )
    heavy = {"typing", "pathlib", "dataclasses", "configparser", "pyudev", "sh", "transitions"}
    assert heavy & set(done.stdout.split()) == set()
