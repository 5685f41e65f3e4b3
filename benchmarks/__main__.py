"""Run the benchmark: `python -m benchmarks [--case NAME] [--flow NAME] [--profile NAME] ...`.

Each result is kept as a file below build/bench, so that an interrupted run goes on where it was,
and `build/bench/report.json` has all of them.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import signal
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import page, peer_flow, pi_flow
from benchmarks.cards import CASES, MANY, TINY, Case, filled_card
from benchmarks.devices import PROFILES, Profile
from crfs.errors import RehearsalError
from crfs.rehearsal.manifest import Manifest, dump, load, read_root

OUT = Path("build/bench")
FLOWS = ("crfs", *peer_flow.NAMES)
MANIFEST_S = 3600.0


class Bench:
    """One speed of the devices; results go below `out`."""

    def __init__(self, deb: Path, out: Path, profile: Profile, factor: float) -> None:
        self.deb = deb
        self.out = out
        self.profile = profile.times(factor)
        self.factor = factor
        self.results = out / "results" / f"{profile.name}-x{factor:g}"
        self.work = out / "work"

    def run(self, case: Case, flow: str) -> None:
        """Measure one flow on one case, unless that was done."""
        card = filled_card(case, self.deb, self.out / "cards")
        kept = self.results / card.stem / f"{flow}.json"
        if kept.exists():
            say(f"{case.name} {flow}: was measured already")
            return
        say(f"{case.name} {flow} ...")
        began = time.monotonic()
        truth = self._truth(card)
        # Each has its own, so that the logs of one that went strangely are still there at the end.
        work = self.work / case.name
        if flow == "crfs":
            result = pi_flow.run_crfs(card, truth, self.profile, work, MANIFEST_S)
        else:
            result = peer_flow.run_peer(flow, card, truth, self.profile, work, MANIFEST_S)
        result |= {"case": case.name, "flow": flow, "load": os.getloadavg()[1]}
        keep(kept, json.dumps(result, indent=1))
        say(f"{case.name} {flow}: {result['total_s']:.0f} s ({time.monotonic() - began:.0f} s)")

    def done(self, case: Case, flow: str) -> bool:
        """Measure like `run`; whether that went well: not every way has room on every card."""
        try:
            self.run(case, flow)
        except RehearsalError as error:
            say(f"{case.name} {flow} failed: {error}")
            return False
        return True

    def run_many(self) -> None:
        """Measure the memory that phase 1 takes with very many files."""
        card = filled_card(MANY, self.deb, self.out / "cards")
        result = pi_flow.run_first_phase(card, self.profile, self.work)
        keep(self.results / card.stem / "memory.json", json.dumps(result, indent=1))
        say(json.dumps(result, indent=1))

    def _truth(self, card: Path) -> Manifest:
        """What is on the root of a filled card; read once."""
        kept = card.with_suffix(".jsonl")
        if not kept.exists():
            keep(kept, dump(read_root(card, timeout=MANIFEST_S)[0]))
        with kept.open() as lines:
            return load(lines)

    def report(self, cases: list[Case]) -> dict[str, Any]:
        """All results of these cases, and where they come from."""
        found: list[dict[str, Any]] = []
        for case in cases:
            card = filled_card(case, self.deb, self.out / "cards")
            for flow in FLOWS:
                kept = self.results / card.stem / f"{flow}.json"
                if kept.exists():
                    found.append(json.loads(kept.read_text()))
        return {
            "date": datetime.date.today().isoformat(),
            "machine": f"{processor()}, {os.cpu_count()} processors, {platform.platform()}",
            "profile": page.profile_as_json(self.profile),
            "factor": self.factor,
            "cases": {case.name: case.title for case in cases},
            "results": found,
        }


def keep(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.rename(path)


def processor() -> str:
    """The name of this machine's processor."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def say(text: str) -> None:
    """Tell how it goes."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def newest_deb() -> Path:
    """The package that `make deb` built."""
    found = sorted(Path("build").glob("crfs_*_all.deb"))
    if not found:
        raise RehearsalError("There is no package in build/.", advice="make deb")
    return found[-1]


def main() -> int:
    """Command line entry."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--case", action="append", choices=[*CASES, TINY.name])
    parser.add_argument("--flow", action="append", choices=FLOWS)
    parser.add_argument("--profile", default="sdr104", choices=list(PROFILES))
    parser.add_argument("--factor", type=float, default=0.5, help="devices this many times as fast")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--many", action="store_true", help="only: memory with very many files")
    parser.add_argument("--page", action="store_true", help="only: write the report to docs/")
    wanted = parser.parse_args()
    failed = False
    # Told to end, it ends what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if wanted.page:
            page.write(json.loads((wanted.out / "report.json").read_text()))
            return 0
        bench = Bench(newest_deb(), wanted.out, PROFILES[wanted.profile], wanted.factor)
        if wanted.many:
            bench.run_many()
            return 0
        cases = [{**CASES, TINY.name: TINY}[name] for name in wanted.case or CASES]
        for case in cases:
            for flow in wanted.flow or FLOWS:
                failed |= not bench.done(case, flow)
                keep(wanted.out / "report.json", json.dumps(bench.report(cases), indent=1) + "\n")
    except RehearsalError as error:
        print(error, file=sys.stderr)
        return error.code
    return RehearsalError.code if failed else 0


if __name__ == "__main__":
    sys.exit(main())
