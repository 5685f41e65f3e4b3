"""Run cases, several at a time, and go on where an earlier run has stopped."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from crfs.rehearsal.cuts import plan, report
from crfs.rehearsal.cuts.faults import Case, load
from crfs.rehearsal.cuts.outcome import GOOD, Outcome, run_case
from crfs.rehearsal.cuts.starts import Starts, code, prepare

OUT = Path("build/cuts")
# Images live in memory where there is a place for it: nothing of them has to last.
MEMORY = Path("/dev/shm")  # noqa: S108


@dataclass
class Bench:
    """Where results, starting points and images are."""

    out: Path = OUT
    code: str = field(default_factory=code)
    _starts: dict[bool, Starts] = field(default_factory=dict)

    def starts(self, *, tryboot: bool) -> Starts:
        """The starting points, made at the first call."""
        if tryboot not in self._starts:
            with tempfile.TemporaryDirectory(prefix="crfs-cuts-", dir=scratch()) as name:
                self._starts[tryboot] = prepare(self.out, Path(name), tryboot=tryboot)
        return self._starts[tryboot]

    def run(self, case: Case) -> tuple[Outcome, float]:
        """One case and how long it took, in seconds. What goes wrong leaves its images behind."""
        starts = self.starts(tryboot=case.tryboot)
        folder = Path(tempfile.mkdtemp(prefix="crfs-cuts-", dir=scratch()))
        began = time.monotonic()
        result = run_case(case, starts, folder)
        if result.outcome in GOOD:
            shutil.rmtree(folder)
        else:
            kept = self.out / "failed" / case.id
            shutil.rmtree(kept, ignore_errors=True)
            kept.mkdir(parents=True)
            shutil.copy(folder / "console.log", kept)
            shutil.rmtree(folder)
        return result, time.monotonic() - began

    def run_all(self, cases: Sequence[Case], jobs: int) -> None:
        """All that have no result yet, the kinds mixed as their ids are."""
        done = {row["case"]["id"] for row in report.read(self.out) if row["code"] == self.code}
        waiting = [case for case in cases if case.id not in done]
        waiting.sort(key=lambda case: case.id.rpartition("-")[2])
        print(f"{len(cases)} cases, {len(waiting)} of them to be run", flush=True)
        for tryboot in {case.tryboot for case in waiting}:
            self.starts(tryboot=tryboot)

        def one(case: Case) -> None:
            result, seconds = self.run(case)
            report.append(self.out, self.code, case, result, seconds)
            mark = "" if result.outcome in GOOD else f"   {result.detail[:200]}"
            hit = "" if result.hit else " (missed)"
            print(
                f"{case.id} {case.step}: {result.outcome}{hit}, {seconds:.0f} s{mark}", flush=True
            )

        with ThreadPoolExecutor(jobs) as pool:
            for future in [pool.submit(one, case) for case in waiting]:
                future.result()

    def find(self, case_id: str) -> Case | None:
        """A case by its id, among those that have been run."""
        for row in report.read(self.out):
            if row["case"]["id"] == case_id:
                return load(row["case"])
        return None

    def plan(self, kinds: Sequence[str], count: int, seed: int) -> list[Case]:
        """`count` cases, shared out among the kinds; three in four with one-shot boot."""
        cases: list[Case] = []
        for kind, share in plan.shares(kinds, count).items():
            for tryboot, part in ((True, share - share // 4), (False, share // 4)):
                if part:
                    points = self.starts(tryboot=tryboot).points
                    found = plan.all_cases(kind, seed, points, tryboot=tryboot)
                    cases += plan.choose(found, part, seed)
        return cases


def scratch() -> Path:
    """A folder for images."""
    return MEMORY if MEMORY.is_dir() else Path(tempfile.gettempdir())
