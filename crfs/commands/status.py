"""`crfs status`: where a migration is, why it stopped, what to do next."""

from __future__ import annotations

import json
import time

from crfs import live

TYPE_CHECKING = False
if TYPE_CHECKING:  # see live.py
    import argparse
    from typing import Any

_MEANING = {
    "none": "No migration has begun on this card.",
    "staging": "Phase 1: the root is being copied to the stick; the system is in use.",
    "settling": "Phase 1: services are stopped for the last copy and the comparison.",
    "trying_stage": "Reboot 1: one trial boot from the stick.",
    "restoring": "Phase 2: running from the stick; the card becomes cryptrfs.",
    "trying_root": "Reboot 2: one trial boot from cryptrfs.",
    "finishing": "Phase 3: running from cryptrfs; the rest is tidied up.",
    "rolling_back": "Going back to the plain card.",
    "rolled_back": "Rolled back.",
    "done": "Done: the root filesystem is encrypted; 'sudo crfs verify' checks it.",
}
_ENDS = ("none", "done", "rolled_back")


def run(args: argparse.Namespace) -> int:
    while True:
        status = collect()
        print(json.dumps(status, indent=1) if args.json else render(status))
        if not args.watch or status["state"] in _ENDS or status["halt"]:
            return 0
        time.sleep(2)


def collect() -> dict[str, Any]:
    """Everything known, for machines.

    Raises JournalError, and LayoutError where the boot partition, which would tell, is not mounted.
    """
    running = live.is_running()
    # Before the worker has said something in this boot, only the journal can tell.
    told = live.read() or (_from_journal() if live.has_journal() else {})
    if not told:
        report = live.read_report()
        if not report and not live.boot_is_mounted():
            _require_boot_partition()
        told = {"state": str(report.get("state", "none")), "steps": report.get("steps", [])}
    return {"halt": None, **told, "running": running}


def _require_boot_partition() -> None:
    """That there is no journal says something only where it would lie. Raises LayoutError."""
    from crfs import probe

    if probe.extlinux_conf() is None:
        probe.boot_mount()


def _from_journal() -> dict[str, Any]:
    from crfs.commands import common
    from crfs.progress import facts_of

    found = common.read_journal()
    return {"state": found[1].state, "step": found[1].step, **facts_of(found[1])} if found else {}


def render(status: dict[str, Any]) -> str:
    """For people."""
    lines = [_MEANING.get(status["state"], status["state"])]
    if status["state"] == "rolled_back":
        lines.append(status.get("message", ""))
    if status["running"] and status.get("title"):
        lines.append(live.render(status))
    halt = status["halt"]
    if halt:
        lines += [f"Stopped: {halt['what']}", halt["data"], f"Next: {halt['advice']}"]
    elif status["state"] not in _ENDS and not status["running"]:
        lines.append("It is not at work now. Next: 'sudo crfs resume'")
    return "\n".join(lines)
