"""Results, one a line as they come; and the report that counts them."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

from crfs.rehearsal.cuts.faults import Case, load
from crfs.rehearsal.cuts.outcome import GOOD, OUTCOMES, Outcome

RESULTS = "results.jsonl"
REPORT = "report.json"
BEGIN = "<!-- counts: begin -->"
END = "<!-- counts: end -->"


def append(out: Path, code: str, case: Case, result: Outcome, seconds: float) -> None:
    """Keep one result; a line that a cut has torn is passed over when they are read."""
    line = {
        "code": code,
        "case": case.dump(),
        "seconds": round(seconds, 1),
        **dataclasses.asdict(result),
    }
    with (out / RESULTS).open("a") as file:
        file.write(json.dumps(line) + "\n")


def read(out: Path) -> list[dict[str, Any]]:
    """All results so far; of a case that was tried again, the latest."""
    path = out / RESULTS
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
            found[line["code"], line["case"]["id"]] = line
        except (ValueError, KeyError):
            continue
    return list(found.values())


def summarize(results: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    """The report: counts by outcome, kind and step, and every failure with its case."""

    def counted(rows: list[dict[str, Any]]) -> dict[str, int]:
        counts = Counter(row["outcome"] for row in rows)
        met = sum(row["hit"] for row in rows)
        return {"cuts": len(rows), "hit": met, **{name: counts[name] for name in OUTCOMES}}

    def grouped(name: str) -> dict[str, dict[str, int]]:
        groups: dict[str, list[dict[str, Any]]] = {}
        for row in results:
            key = row["case"]["kind"] if name == "kind" else load(row["case"]).step
            groups.setdefault(key, []).append(row)
        return {key: counted(rows) for key, rows in sorted(groups.items())}

    return {
        "seed": seed,
        **counted(results),
        "records_acknowledged": sum(row["acknowledged"] for row in results),
        "kind": grouped("kind"),
        "step": grouped("step"),
        "seconds": round(sum(row["seconds"] for row in results)),
        "failures": [row for row in results if row["outcome"] not in GOOD],
    }


def write(out: Path, seed: int, code: str) -> dict[str, Any]:
    """Write the report of all results that this code has had; return it."""
    content = summarize([row for row in read(out) if row["code"] == code], seed)
    (out / REPORT).write_text(json.dumps(content, indent=1) + "\n")
    return content


def table(report: dict[str, Any]) -> str:
    """The counts as a table for docs/reliability.md."""
    names = [name for name in OUTCOMES if name in GOOD or report[name]]
    lines = [
        "| kind | cases | met | " + " | ".join(name.replace("_", " ") for name in names) + " |",
        "|---|" + "--:|" * (len(names) + 2),
    ]
    rows = [*report["kind"].items(), ("all", report)]
    for kind, counts in rows:
        cells = [str(counts[name]) for name in ("cuts", "hit", *names)]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def insert_table(document: str, report: dict[str, Any]) -> str:
    """A document with the table between its markers."""
    head, _, rest = document.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{table(report)}\n{END}{tail}"
