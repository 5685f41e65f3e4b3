"""The stick at the end, and a header of cryptrfs that was torn before its trial boot."""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Callable

import pytest

from crfs import blocks, keys, luks
from crfs.bootfiles import BootFiles
from crfs.errors import CommandError, DisagreementError
from crfs.steps import BY_STATE, Context, Step
from tests.unit.pi import UUIDS, FakePi, record

BROUGHT_BACK = ("/dev/mmcblk0p2", "/dev/sda")


def step(name: str) -> Step:
    return next(one for steps in BY_STATE.values() for one in steps if one.id == name)


@pytest.fixture
def context(pi: FakePi) -> Context:
    kept = record("trying_root", str(pi.boot))
    boot = BootFiles(pi.boot, kept.plan)
    boot.own.mkdir()
    boot.sealed_key.write_bytes(b"sealed:" + b"k" * keys.KEY_BYTES)
    pi.superblocks["/dev/sda", "UUID"] = UUIDS.stage_luks
    pi.superblocks["/dev/mmcblk0p2", "UUID"] = UUIDS.root_luks
    return Context(pi.journal, kept, boot, lambda done, whole: None, print)


def test_the_stick_is_erased(pi: FakePi, context: Context) -> None:
    step("erase-stick").do(context)
    assert [one[0] for one in pi.effects] == ["dd", "cryptsetup", "wipefs", "dd"]
    assert "seek=4" in pi.effects[0], "the stage's own header goes last: by it the stick is found"
    assert ["cryptsetup", "luksErase", "--batch-mode", "/dev/sda"] in pi.effects


def test_a_stick_to_be_kept_is_not(pi: FakePi, context: Context) -> None:
    plan = dataclasses.replace(context.plan, keep_stage=True)
    context.record = dataclasses.replace(context.record, plan=plan)
    step("erase-stick").do(context)
    assert pi.effects == []


@pytest.mark.parametrize(
    ("problem", "larger", "expected"),
    [
        (errno.EBUSY, False, CommandError),
        (errno.EINVAL, True, CommandError),
        (errno.EINVAL, False, OSError),
        (errno.EIO, False, OSError),
    ],
)
def test_another_program_enlarges_the_filesystem_at_the_same_time(
    monkeypatch: pytest.MonkeyPatch,
    context: Context,
    problem: int,
    larger: bool,
    expected: type[Exception],
) -> None:
    """That is tried again; the medium's own errors are told as such."""
    context.save(cleared=100 * 2**20)
    size = 100 * 2**20

    def grow(folder: str, target: int) -> None:
        nonlocal size
        size = target * 2 if larger else size
        raise OSError(problem, "no")

    monkeypatch.setattr(blocks, "size_of", lambda path: size)
    monkeypatch.setattr(blocks, "device_size", lambda path: 200 * 2**20)
    monkeypatch.setattr(blocks, "blank", lambda *_: 0)
    monkeypatch.setattr(blocks, "grow", grow)
    with pytest.raises(expected) as caught:
        step("grow").do(context)
    assert ("Another program" in str(caught.value)) == (expected is CommandError)


@pytest.fixture
def header(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[str, str]]]:
    """Have the header on the card be whole or not, now and after it was brought back."""

    def set_up(*, whole: bool, copy_whole: bool = True) -> list[tuple[str, str]]:
        done: list[tuple[str, str]] = []
        known = "cafe0001-02"

        def bring_back(path: str, stick: str, key: bytes) -> bool:
            done.append((path, stick))
            return copy_whole

        monkeypatch.setattr(luks, "bring_back_header", bring_back)
        monkeypatch.setattr(
            luks, "key_opens", lambda path, key: whole or (bool(done) and copy_whole)
        )
        monkeypatch.setattr(luks, "named_partition", lambda path: known)
        return done

    return set_up


def test_a_whole_header_is_left_alone(
    context: Context, header: Callable[..., list[tuple[str, str]]]
) -> None:
    done = header(whole=True)
    step("arm-root").do(context)
    assert done == []
    assert context.boot.folder.joinpath("tryboot.txt").exists()


def test_a_torn_header_is_brought_back_before_the_trial(
    context: Context, header: Callable[..., list[tuple[str, str]]]
) -> None:
    done = header(whole=False)
    step("arm-root").do(context)
    assert done == [BROUGHT_BACK]
    assert context.boot.folder.joinpath("tryboot.txt").exists()


def test_no_trial_of_what_cannot_be_opened(
    context: Context, header: Callable[..., list[tuple[str, str]]]
) -> None:
    header(whole=False, copy_whole=False)
    with pytest.raises(DisagreementError, match="header"):
        step("arm-root").do(context)
    assert not context.boot.folder.joinpath("tryboot.txt").exists()
