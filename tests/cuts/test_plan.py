"""The plan leaves nothing out, is the same for the same seed, and results are counted rightly."""

from __future__ import annotations

import dataclasses
import random
import struct
from pathlib import Path

import pytest

from crfs.model import Halt
from crfs.rehearsal.cuts import outcome, plan, report, storage
from crfs.rehearsal.cuts.faults import PHASES, Case, Disturbance, load
from crfs.rehearsal.cuts.outcome import OUTCOMES, Outcome
from crfs.rehearsal.cuts.starts import Start
from crfs.rehearsal.cuts.storage import FLUSH, FUA, Write

_MANY = tuple((f"scrub|piece|{number}", 0.1) for number in range(1, 7))
EFFECTS = {
    1: (("seal-key|journal|1", 0.01), ("copy|rsync /run/crfs/stage/|1", 2.5), *_MANY),
    2: (("restore|piece|1", 0.1), ("restore|piece|2", 0.1), ("scrub|journal|1", 0.001), *_MANY),
    3: (("grow|resize2fs 1k|1", 0.5), ("finish-boot|replace config.txt|1", 0.001), *_MANY),
}
COMMANDS = {1: (), 2: ("local-bottom mount 1",), 3: ("local-top mv 1",)}
POINTS = {
    phase: Start(Path("nowhere"), 0, phase > 1, EFFECTS[phase], COMMANDS[phase], 10.0 * phase)
    for phase in PHASES
}


def test_every_effect_is_cut_at_each_place() -> None:
    cases = plan.all_cases("effect", 1, POINTS, tryboot=True)
    cut = {(case.boots[0].key, case.boots[0].place) for case in cases if case.boots[0].key}
    for phase in PHASES:
        for key, seconds in EFFECTS[phase]:
            assert {(key, "before"), (key, "after")} <= cut
            assert ((key, "middle") in cut) == (seconds >= plan.SHORT)
    points = {(case.phase, case.boots[0].point) for case in cases if case.boots[0].point}
    assert points == {
        *((phase, point) for phase in PHASES for point in plan.POINTS),
        *((2, f"local-bottom mount 1 {place}") for place in ("before", "after")),
        *((3, f"local-top mv 1 {place}") for place in ("before", "after")),
    }


@pytest.mark.parametrize("kind", plan.SOURCES)
def test_same_seed_same_cases(kind: str) -> None:
    first, again = (plan.all_cases(kind, 5, POINTS, tryboot=True) for _ in range(2))
    assert first == again
    assert len({case.id for case in first}) == len(first) > 0
    if kind != "effect":
        assert first != plan.all_cases(kind, 6, POINTS, tryboot=True)


@pytest.mark.parametrize("kind", plan.SOURCES)
def test_cases_survive_being_written_down(kind: str) -> None:
    for case in plan.all_cases(kind, 1, POINTS, tryboot=False):
        assert load(case.dump()) == case


def test_choice_takes_every_step_first() -> None:
    cases = plan.all_cases("effect", 1, POINTS, tryboot=True)
    steps = {(case.phase, case.step) for case in cases}
    chosen = plan.choose(cases, len(steps), 1)
    assert {(case.phase, case.step) for case in chosen} == steps
    assert len(plan.choose(cases, 10**6, 1)) == len(cases)


def test_choice_meets_each_effect_before_one_again() -> None:
    cases = plan.all_cases("effect", 1, POINTS, tryboot=True)
    scrubs = [case for case in cases if case.step == "scrub" and case.phase == 2]
    keys = {case.boots[0].key for case in scrubs}
    assert {case.boots[0].key for case in plan.choose(scrubs, len(keys), 1)} == keys


def test_every_kind_has_its_share() -> None:
    assert set(plan.WEIGHTS) == set(plan.SOURCES)
    shares = plan.shares(list(plan.SOURCES), 600)
    assert abs(sum(shares.values()) - 600) < len(shares)
    assert min(plan.shares(list(plan.SOURCES), 9).values()) >= 1


def _row(kind: str, result: str, key: str = "") -> dict[str, object]:
    case = Case("x", kind, 2, True, (Disturbance(key=key),))
    return {"case": case.dump(), "seconds": 1.0, **dataclasses.asdict(Outcome(result, hit=True))}


def test_report_counts() -> None:
    rows = [
        _row("effect", outcome.COMPLETED, "scrub|journal|1"),
        _row("effect", outcome.LOST_FILES, "scrub|journal|1"),
        _row("random", outcome.ROLLED_BACK),
    ]
    content = report.summarize(rows, 7)
    assert (content["cuts"], content["seed"]) == (3, 7)
    assert sum(content[name] for name in OUTCOMES) == 3
    assert content["kind"]["effect"][outcome.LOST_FILES] == 1
    assert content["step"]["scrub"]["cuts"] == 2
    assert content["step"]["phase-2"]["cuts"] == 1
    assert content["failures"] == [rows[1]]
    text = report.insert_table(f"a\n{report.BEGIN}\nold\n{report.END}\nz\n", content)
    assert text.startswith("a\n")
    assert text.endswith("\nz\n")
    assert "old" not in text
    assert "| all | 3 | 3 | 1 | 1 | 0 | 1 |" in text


def test_torn_result_is_passed_over(tmp_path: Path) -> None:
    case = Case("x", "effect", 2, True, (Disturbance(),))
    report.append(tmp_path, "code", case, Outcome(outcome.COMPLETED), 2.0)
    with (tmp_path / report.RESULTS).open("a") as file:
        file.write('{"code": "co')
    assert [row["outcome"] for row in report.read(tmp_path)] == [outcome.COMPLETED]


def test_a_message_has_to_name_a_way() -> None:
    assert outcome.names_a_way(Halt(1, "It broke.", "", "'sudo crfs resume'"))
    assert not outcome.names_a_way(Halt(1, "", "", "'sudo crfs resume'"))
    assert not outcome.names_a_way(Halt(1, "It broke.", "", "good luck"))


# --- the write cache

WRITES = [
    Write(0, 512, 0, b"a" * 512),
    Write(0, 0, FLUSH, b""),
    Write(0, 1024, 0, b"b" * 1024),
    Write(512, 512, FUA, b"c" * 512),
]


def _log(path: Path, writes: list[Write]) -> None:
    text = bytes(512)
    for one in writes:
        header = struct.pack("<4Q", one.start // 512, one.size // 512, one.flags, 0)
        text += header.ljust(512, b"\0") + one.content
    path.write_bytes(text)


def test_log_is_read_as_far_as_it_is_whole(tmp_path: Path) -> None:
    _log(tmp_path / "log", WRITES)
    assert storage.read_log(tmp_path / "log") == WRITES
    text = (tmp_path / "log").read_bytes()
    (tmp_path / "log").write_bytes(text[:-1])
    assert storage.read_log(tmp_path / "log") == WRITES[:-1]


@pytest.mark.parametrize("cache", storage.CACHES)
def test_what_was_flushed_survives(tmp_path: Path, cache: str) -> None:
    outcomes = set()
    for seed in range(50):
        kept = storage.survivors(WRITES, cache, random.Random(seed))
        assert kept[:2] == WRITES[:2]
        assert WRITES[3] in kept
        image = tmp_path / "image"
        image.write_bytes(bytes(1024))
        storage.apply(image, kept)
        outcomes.add(image.read_bytes())
    assert b"a" * 512 + b"c" * 512 in outcomes
    assert (len(outcomes) > 1) == (cache != "dropped")
