"""The journal never tells something wrong, whatever a cut, a bad medium or an attacker did."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crfs import fatfile, journal, model
from crfs.errors import JournalError
from crfs.journal import SLOT_SIZE, SLOTS, Entry, Journal
from crfs.model import Halt, Record
from tests.unit.hostile import json_values, paths, printable, replaced
from tests.unit.pi import record

OLD = record("staging", step="copy", finished=("seal-key",))
NEW = record("settling", attempts=1)
OLD_SLOT = journal.encode(7, OLD)
NEW_SLOT = journal.encode(9, NEW)
DUMP = model.dump(OLD)

records = st.builds(
    lambda state, step, finished, offset, destroyed, halt: record(
        state, step=step, finished=tuple(finished), offset=offset, destroyed=destroyed, halt=halt
    ),
    printable,
    printable,
    st.lists(printable, max_size=5),
    st.integers(min_value=0, max_value=2**63),
    st.booleans(),
    st.none() | st.builds(Halt, st.integers(0, 255), printable, printable, printable),
)


def sealed(body: bytes, sequence: int = 5) -> bytes:
    """A slot with a right checksum, as whoever holds the card can write it."""
    digest = hashlib.sha256(b"%d\n" % sequence + body).hexdigest().encode()
    slot = b"crfs-journal-1 %d %d %s\n" % (sequence, len(body), digest) + body
    return slot.ljust(SLOT_SIZE, b"\0")


@given(st.integers(min_value=0, max_value=10**17), records)
def test_round_trip(sequence: int, kept: Record) -> None:
    slot = journal.encode(sequence, kept)
    assert len(slot) == SLOT_SIZE
    assert journal.decode(slot) == Entry(sequence, kept)


@given(st.integers(min_value=0, max_value=SLOT_SIZE))
def test_torn_at_any_byte(cut: int) -> None:
    torn = NEW_SLOT[:cut] + OLD_SLOT[cut:]
    assert journal.decode(torn) in (None, Entry(7, OLD), Entry(9, NEW))


def test_torn_at_every_byte_of_header_and_body() -> None:
    end = len(NEW_SLOT.rstrip(b"\0"))
    told = {journal.decode(NEW_SLOT[:cut] + OLD_SLOT[cut:]) is None for cut in range(end)}
    assert told == {True, False}  # whole slots were among them, and torn ones


@given(st.integers(min_value=0, max_value=SLOT_SIZE))
def test_cut_short(length: int) -> None:
    assert journal.decode(NEW_SLOT[:length]) in (None, Entry(9, NEW))


@given(
    st.lists(
        st.tuples(
            st.integers(min_value=0, max_value=len(NEW_SLOT.rstrip(b"\0")) + 50),
            st.integers(min_value=1, max_value=255),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_flipped_bits(flips: list[tuple[int, int]]) -> None:
    slot = bytearray(NEW_SLOT)
    for place, bits in flips:
        slot[place] ^= bits
    assert journal.decode(bytes(slot)) in (None, Entry(9, NEW))


@given(st.binary(max_size=600), st.booleans())
def test_any_bytes(content: bytes, with_magic: bool) -> None:
    assert journal.decode((b"crfs-journal-1 " if with_magic else b"") + content) is None


@given(json_values)
def test_hostile_json_with_a_right_checksum(value: Any) -> None:
    assert journal.decode(sealed(json.dumps(value).encode())) is None


@given(st.sampled_from(paths(DUMP)), json_values)
def test_hostile_field_with_a_right_checksum(path: tuple[Any, ...], value: Any) -> None:
    parsed = json.loads(json.dumps(DUMP))
    found = journal.decode(sealed(json.dumps(replaced(parsed, path, value)).encode()))
    assert found is None or isinstance(found.record, Record)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe", b"[" * 10000, b"9" * 5000, b'"\\ud800"', b'{"a": NaN}'],
    ids=["empty", "open", "no-utf8", "deep", "long-number", "surrogate", "nan"],
)
def test_what_json_may_stumble_over(body: bytes) -> None:
    assert journal.decode(sealed(body)) is None


def test_header_with_huge_numbers() -> None:
    slot = b"crfs-journal-1 " + b"9" * 18 + b" 999999 " + b"0" * 64 + b"\n{}"
    assert journal.decode(slot) is None


def test_too_large_a_record_is_refused() -> None:
    with pytest.raises(JournalError):
        journal.encode(1, record(step="x" * SLOT_SIZE))


def test_what_could_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    """A control character in a device's name would make both slots unreadable."""
    kept = Journal(tmp_path)
    kept.write(OLD)
    with pytest.raises(JournalError):
        kept.write(dataclasses.replace(OLD, step="a\x00b"))
    assert Journal(tmp_path).read() == OLD


def test_a_failed_write_does_not_put_the_newest_record_at_risk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next write goes to the slot that failed, not to the one that holds the state."""
    kept = Journal(tmp_path)
    kept.write(OLD)
    kept.write(NEW)
    newest = {name for name in SLOTS if journal.decode(_slot(tmp_path, name)) == Entry(2, NEW)}

    def fail(path: Path, slot: bytes) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(journal, "_overwrite", fail)
        with pytest.raises(OSError, match="Input"):
            kept.write(OLD)
    kept.write(OLD)
    assert {name: journal.decode(_slot(tmp_path, name)) for name in newest} == dict.fromkeys(
        newest, Entry(2, NEW)
    )
    assert Journal(tmp_path).read() == OLD


def test_empty_folder_is_no_journal(tmp_path: Path) -> None:
    assert Journal(tmp_path).read() is None
    assert not Journal(tmp_path).exists()


@given(st.lists(records, min_size=1, max_size=6))
def test_the_last_record_counts(new_folder: Callable[[], Path], written: list[Record]) -> None:
    boot = new_folder()
    kept = Journal(boot)
    for one in written:
        kept.write(one)
        assert Journal(boot).read() == one


@given(
    st.lists(st.integers(min_value=0, max_value=SLOT_SIZE), min_size=1, max_size=5),
    st.booleans(),
)
def test_a_cut_costs_at_most_the_last_record(
    new_folder: Callable[[], Path], cuts: list[int], reopened: bool
) -> None:
    """Each write is cut, perhaps several times in a row; the one before is always there."""
    boot = new_folder()
    kept = Journal(boot)
    kept.write(record("staging", attempts=0))
    last = 0
    for number, cut in enumerate(cuts, 1):
        writer = Journal(boot) if reopened else kept
        found = writer.read()
        assert found is not None
        before = {name: _slot(boot, name) for name in SLOTS}
        writer.write(record("staging", attempts=number))
        for name, old in before.items():
            path = boot / journal.FOLDER / name
            new = _slot(boot, name)
            if new != old:
                path.write_bytes(new[:cut] + old[cut:])
        after = Journal(boot).read()
        assert after is not None
        assert after.attempts in (last, number)
        last = after.attempts


def _slot(boot: Path, name: str) -> bytes:
    path = boot / journal.FOLDER / name
    return path.read_bytes() if path.exists() else b""


def test_both_torn_is_an_error_not_a_fresh_start(tmp_path: Path) -> None:
    kept = Journal(tmp_path)
    kept.write(OLD)
    kept.write(NEW)
    for name in SLOTS:
        (tmp_path / journal.FOLDER / name).write_bytes(b"\0" * SLOT_SIZE)
    with pytest.raises(JournalError) as caught:
        Journal(tmp_path).read()
    assert caught.value.advice


def test_the_first_write_makes_room_for_all_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The boot partition may be full later."""
    Journal(tmp_path).write(OLD)

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fatfile, "replace", full)
    for number in range(4):
        kept = Journal(tmp_path)
        assert kept.read()
        kept.write(record(attempts=number))
        assert Journal(tmp_path).read() == record(attempts=number)


def test_only_slot_torn_is_an_error(tmp_path: Path) -> None:
    Journal(tmp_path).write(OLD)
    for path in (tmp_path / journal.FOLDER).iterdir():
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(JournalError):
        Journal(tmp_path).read()


@pytest.mark.parametrize("writes", [1, 2, 3])
@pytest.mark.parametrize("cut", [0, 1, 2])
def test_removing_can_be_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int, cut: int
) -> None:
    """While it goes, the journal is there with the newest record, or it is not there."""
    kept = Journal(tmp_path)
    for number in range(writes):
        kept.write(record(attempts=number))
    real, calls = fatfile.remove, 0

    def remove(path: Path) -> None:
        nonlocal calls
        if calls == cut:
            raise KeyboardInterrupt
        calls += 1
        real(path)

    monkeypatch.setattr(fatfile, "remove", remove)
    if cut < 2:
        with pytest.raises(KeyboardInterrupt):
            kept.remove()
    else:
        kept.remove()
        kept.remove_empty_folder()
        assert not (tmp_path / journal.FOLDER).exists()
    found = Journal(tmp_path).read()
    assert found is None or found.attempts == writes - 1
    assert found is not None or cut == 2
