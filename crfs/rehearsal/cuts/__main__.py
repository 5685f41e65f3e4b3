"""`python -m crfs.rehearsal.cuts`: run cuts, count outcomes, write build/cuts/report.json."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import sys
from pathlib import Path

from crfs.errors import RehearsalError
from crfs.rehearsal.cuts import report
from crfs.rehearsal.cuts.bench import OUT, Bench
from crfs.rehearsal.cuts.card import PROJECT
from crfs.rehearsal.cuts.outcome import GOOD
from crfs.rehearsal.cuts.plan import SOURCES
from crfs.rehearsal.cuts.world import end_all

DOCUMENT = PROJECT / "docs/reliability.md"


def main() -> int:
    """Command line entry; the exit code is 1 if any case did not end well."""
    parser = argparse.ArgumentParser(prog="crfs.rehearsal.cuts", description=__doc__)
    parser.add_argument("--count", type=int, default=600, help="cases in all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", default=",".join(SOURCES), help="comma-separated")
    parser.add_argument("--jobs", type=int, default=2, help="cases at a time")
    parser.add_argument("--out", type=Path, default=OUT, help="results, report, starting points")
    parser.add_argument("--replay", metavar="ID", help="run one case of the results again")
    parser.add_argument("--document", action="store_true", help=f"bring the counts to {DOCUMENT}")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, _end)
    bench = Bench(arguments.out)
    if arguments.replay:
        return replay(bench, arguments.replay)
    kinds = arguments.kinds.split(",")
    if unknown := set(kinds) - set(SOURCES):
        parser.error(f"unknown kinds: {', '.join(sorted(unknown))}")
    bench.run_all(bench.plan(kinds, arguments.count, arguments.seed), arguments.jobs)
    content = report.write(arguments.out, arguments.seed, bench.code)
    print(report.table(content))
    if arguments.document:
        DOCUMENT.write_text(report.insert_table(DOCUMENT.read_text(), content))
    return 0 if not content["failures"] else 1


def _end(*_: object) -> None:
    """Leave no emulator behind; the results so far are kept."""
    end_all()
    os._exit(130)


def replay(bench: Bench, case_id: str) -> int:
    """One case again, told in full."""
    case = bench.find(case_id)
    if case is None:
        raise RehearsalError(f"There is no case {case_id} among the results.")
    result, seconds = bench.run(case)
    print(json.dumps({"case": case.dump(), **dataclasses.asdict(result)}, indent=1))
    print(f"{seconds:.0f} s")
    return 0 if result.outcome in GOOD else 1


if __name__ == "__main__":
    sys.exit(main())
