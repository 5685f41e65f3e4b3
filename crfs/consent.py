"""What was agreed to on this very system: the plan, kept on the root filesystem.

The journal lies on the boot partition, where anyone who holds the card can write. So it may name
a disk to be formatted only if the root filesystem, which all three phases run from or a copy of,
says the same.
"""

from __future__ import annotations

import json
from pathlib import Path

from crfs import fatfile, model
from crfs.model import Plan

FILE = Path("/var/lib/crfs/plan.json")


def give(plan: Plan) -> None:
    """Remember durably what was agreed to. Raises OSError."""
    FILE.parent.mkdir(mode=0o755, exist_ok=True)
    fatfile.replace(FILE, _text(plan))
    FILE.chmod(0o600)


def given(plan: Plan) -> bool:
    """Whether exactly this plan was agreed to."""
    try:
        return FILE.read_bytes() == _text(plan)
    except OSError:
        return False


def withdraw() -> None:
    """Forget it durably; there is no run any more. Raises OSError."""
    if FILE.exists():
        fatfile.remove(FILE)


def _text(plan: Plan) -> bytes:
    return json.dumps(model.dump(plan), sort_keys=True, indent=1).encode() + b"\n"
