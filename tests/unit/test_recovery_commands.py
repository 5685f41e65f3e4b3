"""The recovery key as `crfs encrypt` hands it out, and `crfs recovery-key`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from crfs import bindings, keys, luks, probe, recovery
from crfs.bootfiles import BootFiles
from crfs.errors import DisagreementError
from crfs.model import Record
from crfs.steps import BY_STATE, Context
from tests.unit.pi import GB, FakePi, plan, row

MARK = "Recovery key (write it down now"


def shown_key(out: str) -> str:
    lines = out.partition(MARK)[2].splitlines()
    return recovery.understand("".join(lines[2:4]))


def answers(monkeypatch: pytest.MonkeyPatch, *typed: str) -> list[str]:
    """Answer questions on a terminal, one after another; returns what was asked."""
    asked: list[str] = []
    left: Iterator[str] = iter(typed)

    def answer(prompt: str) -> str:
        asked.append(prompt)
        return next(left)

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", answer)
    return asked


def test_encrypt_shows_the_key_that_the_sealed_one_leads_to(pi: FakePi) -> None:
    result = pi.crfs("encrypt", "--yes")
    assert result.code == 0, result
    kept = pi.journal.read()
    assert kept is not None
    sealed = (pi.boot / "crfs/key.bin.lock").read_bytes()
    key = sealed.removeprefix(b"sealed:")
    assert shown_key(result.out) == recovery.derive(key, kept.plan.run_id)
    assert kept.finished == ("seal-key",)
    assert kept.key_digest == bindings.digest(key)
    for content in [path.read_bytes() for path in pi.boot.rglob("*") if path.is_file()]:
        assert shown_key(result.out).encode() not in content
    assert all(shown_key(result.out) not in word for one in pi.effects for word in one)


def test_encrypt_without_a_recovery_key(pi: FakePi) -> None:
    result = pi.crfs("encrypt", "--yes", "--no-recovery-key")
    assert result.code == 0, result
    assert MARK not in result.out
    assert "without the HSM the data is gone" in result.out
    kept = pi.journal.read()
    assert kept is not None
    assert (kept.finished, kept.plan.recovery_key) == ((), False)


def test_the_key_has_to_be_confirmed(pi: FakePi, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answers(monkeypatch, "yes", "cccccccc", "", "no")
    pi.refuses(["encrypt"], 23, "not confirmed")
    assert len(asked) == 4


def test_a_confirmed_key_begins_the_run(pi: FakePi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "derive", lambda key, run_id: "-".join(["cbdefghi"] * 8))
    answers(monkeypatch, "yes", "wrong", " CBDEFGHI ")
    assert pi.crfs("encrypt").code == 0
    assert pi.journal.read() is not None


def test_a_lost_sealed_key_is_not_replaced_in_silence(pi: FakePi) -> None:
    """The key on somebody's sheet of paper would open nothing."""
    kept = Record(plan=plan(str(pi.boot), recovery_key=True), state="staging")
    boot = BootFiles(pi.boot, kept.plan)
    context = Context(pi.journal, kept, boot, lambda done, whole: None, print)
    with pytest.raises(DisagreementError, match="gone"):
        BY_STATE["staging"][0].do(context)


@pytest.fixture
def encrypted(pi: FakePi, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A Pi whose cryptrfs has no recovery key yet; the list holds those that it gets."""
    made: list[str] = []
    mapping = row(str(probe.mapping_path("cryptrfs")), "crypt", GB)
    part = row("/dev/mmcblk0p2", "part", GB, children=[mapping])
    pi.rows[:] = [row("/dev/mmcblk0", "disk", GB, children=[part])]
    monkeypatch.setattr("crfs.commands.recovery_key._own_key", lambda device: b"k" * 512)
    monkeypatch.setattr(
        luks, "add_recovery_key", lambda path, key, new: made.append(f"{path} {new}")
    )
    monkeypatch.setattr(luks, "recovery_keyslots", lambda path: [str(i) for i in range(len(made))])
    monkeypatch.setattr(luks, "remove_recovery_keys", lambda path, key: made.clear())
    monkeypatch.setattr(luks, "key_opens", lambda path, key: f"{path} {key.decode()}" in made)
    return made


def test_add_test_remove(pi: FakePi, encrypted: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    shown = shown_key(pi.crfs("recovery-key", "add").out)
    assert encrypted == [f"/dev/mmcblk0p2 {shown}"]
    monkeypatch.setattr("sys.stdin.readline", lambda: f" {shown.upper()}\n", raising=False)
    assert pi.crfs("recovery-key", "test").code == 0
    monkeypatch.setattr("sys.stdin.readline", recovery.fresh, raising=False)
    wrong = pi.crfs("recovery-key", "test")
    assert (wrong.code, "does not open" in wrong.err) == (21, True)
    assert "2 recovery keys" in pi.crfs("recovery-key", "add").out
    assert pi.crfs("recovery-key", "remove").code == 0
    assert pi.crfs("recovery-key", "test").code == 21


def test_nothing_to_open_here(pi: FakePi) -> None:
    for action in ("add", "test", "remove"):
        pi.refuses(["recovery-key", action], 18, "not encrypted by crfs")


def test_not_while_a_migration_runs(pi: FakePi, encrypted: list[str]) -> None:
    pi.journal.write(Record(plan=plan(str(pi.boot)), state="restoring"))
    assert pi.crfs("recovery-key", "add").code == 16
    assert not encrypted


def test_the_hsm_is_given_back(pi: FakePi, monkeypatch: pytest.MonkeyPatch) -> None:
    from crfs.commands import recovery_key

    monkeypatch.setattr(keys, "SEALED_KEY", str(pi.boot / "sealed"))
    (pi.boot / "sealed").write_bytes(b"sealed:" + bytes(512))
    pi.active.update(keys.SERVICES)
    assert recovery_key._own_key("/dev/mmcblk0p2") == bytes(512)
    assert pi.active >= set(keys.SERVICES)
