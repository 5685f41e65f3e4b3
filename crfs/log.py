"""What crfs says while it works: to the journal with fields, or to standard error.

Fields besides the message: CRFS_STEP, CRFS_PERCENT, CRFS_SECONDS_LEFT, and a MESSAGE_ID for each
kind of outcome, so that `journalctl MESSAGE_ID=...` finds it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

# Chosen once with uuidgen; they never change.
MESSAGE_IDS = {
    "step_begun": "5f0a6f4d7c5b4bb0a6f6c2a5d6e1b101",
    "step_done": "5f0a6f4d7c5b4bb0a6f6c2a5d6e1b102",
    "rebooting": "5f0a6f4d7c5b4bb0a6f6c2a5d6e1b103",
    "stopped": "5f0a6f4d7c5b4bb0a6f6c2a5d6e1b104",
    "done": "5f0a6f4d7c5b4bb0a6f6c2a5d6e1b105",
    "rolled_back": "5f0a6f4d7c5b4bb0a6f6c2a5d6e1b106",
}
_ERROR, _INFO = 3, 6


def _to_journal(_: Any, method: str, event: MutableMapping[str, Any]) -> str:
    from systemd import journal  # only there under systemd, and slow to import

    message = str(event.pop("event"))
    kind = event.pop("kind", "")
    fields = {f"CRFS_{name.upper()}": str(value) for name, value in event.items()}
    if kind in MESSAGE_IDS:
        fields["MESSAGE_ID"] = MESSAGE_IDS[kind]
    journal.send(message, PRIORITY=_ERROR if method == "error" else _INFO, **fields)
    raise structlog.DropEvent


def _to_stderr(_: Any, method: str, event: MutableMapping[str, Any]) -> str:
    return f"crfs: {event['event']}"


def logger() -> Any:
    """The logger for this process: the journal when systemd started it, else standard error."""
    to_journal = "JOURNAL_STREAM" in os.environ
    return structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr),
        processors=[_to_journal if to_journal else _to_stderr],
    )
