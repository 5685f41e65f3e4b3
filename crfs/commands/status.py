"""`crfs status`: where a migration is, why it stopped, what to do next."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from crfs import progress
from crfs.commands import common, follow
from crfs.model import dump
from crfs.worker import REPORT

_MEANING = {
    "none": "No migration has begun on this card.",
    "staging": "Phase 1: the root is being copied to the stick; the system is in use.",
    "settling": "Phase 1: services are stopped for the last copy and the comparison.",
    "trying_stage": "Reboot 1: one trial boot from the stick.",
    "restoring": "Phase 2: running from the stick; the card becomes cryptrfs.",
    "trying_root": "Reboot 2: one trial boot from cryptrfs.",
    "finishing": "Phase 3: running from cryptrfs; the stick is erased.",
    "rolling_back": "Going back to the plain card.",
    "done": "Done: the root filesystem is encrypted; 'sudo crfs verify' checks it.",
}


def run(args: argparse.Namespace) -> int:
    while True:
        status = collect()
        print(json.dumps(status, indent=1) if args.json else render(status))
        if not args.watch or status["state"] in ("none", "done") or status["halt"]:
            return 0
        time.sleep(2)


def collect() -> dict[str, Any]:
    """Everything known, for machines. Raises JournalError."""
    found = common.read_journal()
    running = progress.is_running()
    if found is None:
        report = progress.read_status(REPORT)
        state = str(report.get("state", "none"))
        return {"state": state, "running": running, "halt": None, "steps": report.get("steps", [])}
    record = found[1]
    live = progress.read_status() if running else {}
    return {
        **live,
        "state": record.state,
        "running": running,
        "step": record.step,
        "trials": record.trials,
        "destroyed": record.destroyed,
        "halt": dump(record.halt) if record.halt else None,
        "steps": [dump(one) for one in record.done_steps],
    }


def render(status: dict[str, Any]) -> str:
    """For people."""
    lines = [_MEANING.get(status["state"], status["state"])]
    if status["running"] and status.get("title"):
        lines.append(follow.render(status))
    halt = status["halt"]
    if halt:
        lines += [f"Stopped: {halt['what']}", halt["data"], f"Next: {halt['advice']}"]
    elif status["state"] not in ("none", "done") and not status["running"]:
        lines.append("It is not at work now. Next: 'sudo crfs resume'")
    return "\n".join(lines)
