"""The first steps: what they know of the key, and of what rsync has read."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest

from crfs import bindings, proof, trees
from crfs.bootfiles import BootFiles
from crfs.errors import CommandError, HsmError
from crfs.model import STAGE_MAPPING
from crfs.steps import stage
from crfs.steps.base import Context, mapping
from tests.unit.pi import UUIDS, FakePi, record

KEY = b"key" * 100


@pytest.fixture
def context(pi: FakePi, monkeypatch: pytest.MonkeyPatch) -> Context:
    """Phase 1, with something that seals by adding a letter."""
    binding = SimpleNamespace(
        TITLE="HSM",
        take=lambda: None,
        make_key=lambda: KEY,
        seal=lambda key: b"s" + key,
        unseal=lambda sealed: sealed[1:],
    )
    monkeypatch.setattr(bindings, "named", lambda kind: binding)
    kept = record("staging", str(pi.boot))
    plan = dataclasses.replace(kept.plan, recovery_key=False)
    kept = dataclasses.replace(kept, plan=plan)
    pi.journal.write(kept)
    boot = BootFiles(pi.boot, plan)
    return Context(pi.journal, kept, boot, lambda done, whole: None, lambda text: None)


def test_the_key_is_known_again(pi: FakePi, context: Context) -> None:
    stage._seal_key(context)
    assert context.key() == KEY
    kept = pi.journal.read()
    assert kept is not None
    assert kept.key_digest == bindings.digest(KEY)
    assert KEY.hex() not in repr(kept)


def test_another_key_is_not_taken(context: Context) -> None:
    """Not for a new stick either, which the HSM would not open when it is well again."""
    stage._seal_key(context)
    context.boot.sealed_key.write_bytes(b"s" + KEY[::-1])
    with pytest.raises(HsmError, match="HSM opens the sealed key to another one"):
        context.key()
    context.boot.sealed_key.write_bytes(b"s" + KEY)
    assert context.key() == KEY


def test_what_rsync_has_read_reaches_the_reading_back(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything is written out before rsync begins, or its sums would prove too much."""
    done: list[str] = []
    for name in ("_mount_both", "_forget_stage"):
        monkeypatch.setattr(stage, name, lambda context: None)
    for name in ("unlock_tree", "part_links"):
        monkeypatch.setattr(trees, name, lambda *paths: None)
    monkeypatch.setattr(stage, "_watched", lambda work, look: work())
    monkeypatch.setattr(os, "sync", lambda: done.append("sync"))

    def copy(
        source: Path,
        target: Path,
        without: Iterable[str],
        only: object,
        sums: Callable[[bytes, bytes], None],
    ) -> None:
        done.append("copy")
        sums(b"name", bytes(16))

    def prove(
        *arguments: object,
    ) -> tuple[proof.Proven, int]:
        given.append(arguments[-1])
        return proof.Proven(), 0

    given: list[object] = []
    monkeypatch.setattr(trees, "copy", copy)
    monkeypatch.setattr(proof, "prove", prove)
    stage._copy(context)
    stage._read_back(context)
    assert done == ["sync", "copy"]
    assert given == [context.copied]
    assert context.copied is not None
    assert b"name" in context.copied._names


@pytest.mark.parametrize(
    ("uuid", "status", "present", "checked"),
    [
        (UUIDS.stage_fs, 0, True, True),
        (UUIDS.stage_fs, 4, False, True),
        (UUIDS.stage_fs, 8, False, True),
        (UUIDS.stage_fs, 5, False, True),
        (UUIDS.root_luks, 0, False, False),
    ],
)
def test_a_filesystem_that_cannot_be_mended_is_made_again(
    pi: FakePi,
    context: Context,
    monkeypatch: pytest.MonkeyPatch,
    uuid: str,
    status: int,
    present: bool,
    checked: bool,
) -> None:
    """What a stick was given last may be torn by a power cut."""
    monkeypatch.setattr(Context, "open_stage", lambda self: None)
    opened = mapping(STAGE_MAPPING)
    pi.superblocks[opened, "UUID"] = uuid

    def check(argv: list[str]) -> None:
        if status and argv[0] == "e2fsck":
            raise CommandError("it is damaged", advice="look", status=status)

    pi.on_run = check
    assert stage._filesystem_present(context) is present
    assert (["e2fsck", "-f", "-p", opened] in pi.effects) is checked


@pytest.mark.parametrize("status", [None, -9, 16, 32, 36])
def test_a_check_that_did_not_end_says_nothing_of_the_filesystem(
    pi: FakePi, context: Context, monkeypatch: pytest.MonkeyPatch, status: int | None
) -> None:
    """Out of time, killed, cancelled: no reason to copy everything again."""
    monkeypatch.setattr(Context, "open_stage", lambda self: None)
    pi.superblocks[mapping(STAGE_MAPPING), "UUID"] = UUIDS.stage_fs

    def check(argv: list[str]) -> None:
        if argv[0] == "e2fsck":
            raise CommandError("it did not end", advice="look", status=status)

    pi.on_run = check
    with pytest.raises(CommandError, match="did not end"):
        stage._filesystem_present(context)
