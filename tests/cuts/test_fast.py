"""A small part of `make cuts`, the same every time: real cuts on the cheap Pi."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from crfs import steps
from crfs.rehearsal.cuts import plan, report
from crfs.rehearsal.cuts.bench import Bench
from crfs.rehearsal.cuts.outcome import LOST_FILES, run_case

pytestmark = pytest.mark.pi

COUNTS = {"effect": 18, "random": 4, "resume": 4, "cache": 4, "rollback": 2}
SEED = 1
JOBS = 2


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("cuts"))


def test_every_step_and_effect_of_the_journey_is_cut(bench: Bench) -> None:
    """What the clean journey does is what the plan cuts: no step, no effect is left out."""
    points = bench.starts(tryboot=True).points
    traced = {key for start in points.values() for key, _ in start.effects}
    assert {key.partition("|")[0] for key in traced} >= {step.id for step in steps.ALL}
    cases = plan.all_cases("effect", SEED, points, tryboot=True)
    for place in ("before", "after"):
        assert {one.boots[0].key for one in cases if one.boots[0].place == place} >= traced


def test_fast_subset(bench: Bench) -> None:
    """Whatever is cut, nothing is lost and nobody is needed."""
    points = bench.starts(tryboot=True).points
    cases = []
    for kind, count in COUNTS.items():
        found = plan.all_cases(kind, SEED, points, tryboot=True)
        # Later phases have less to do again: more cuts in the same time.
        late = [case for case in found if case.phase > 1]
        early = [case for case in found if case.phase == 1]
        cases += plan.choose(late, count - count // 4, SEED) + plan.choose(early, count // 4, SEED)
    assert len(cases) >= 30
    bench.run_all(cases, JOBS)
    content = report.write(bench.out, SEED, bench.code)
    print(report.table(content))
    assert content["cuts"] == len(cases)
    assert content["failures"] == []
    assert content["hit"] >= 28


def test_a_broken_promise_is_noticed(bench: Bench, tmp_path: Path) -> None:
    """The judgement is no formality: a file that is lost on the way is found missing."""
    starts = bench.starts(tryboot=True)
    lost = starts.plain[-1].replace('"path": "/', '"path": "/lost-')
    forged = dataclasses.replace(starts, plain=(*starts.plain, lost))
    case = plan.all_cases("effect", SEED, starts.points, tryboot=True)[-1]
    result = run_case(case, forged, tmp_path / "pi")
    assert result.outcome == LOST_FILES
    assert "lost-" in result.detail
