"""A key is found in whatever form it got out, and nothing is found where none is."""

from __future__ import annotations

import base64
import random
from pathlib import Path

import pytest

from crfs import recovery
from crfs.rehearsal import hygiene

KEY = random.Random(7).randbytes(512)
RECOVERY_KEY = recovery.derive(KEY, "run")


@pytest.mark.parametrize(
    "leak",
    [
        KEY,
        KEY[:32],
        KEY[-128:],
        KEY.hex().encode(),
        KEY.hex().upper().encode(),
        base64.b64encode(KEY),
        repr(KEY).encode(),
    ],
    ids=["raw", "its begin", "its end", "hex", "HEX", "base64", "repr"],
)
def test_a_key_is_found(tmp_path: Path, leak: bytes) -> None:
    leaking, tight = tmp_path / "leaking", tmp_path / "tight"
    leaking.write_bytes(b"some text " * 1000 + leak + b" more")
    tight.write_bytes(b"some text " * 2000 + random.Random(8).randbytes(4096))
    assert hygiene.search([tight, leaking], hygiene.forms(KEY)) == ["leaking"]


@pytest.mark.parametrize(
    "shown",
    [
        recovery.sheet(RECOVERY_KEY),
        RECOVERY_KEY,
        RECOVERY_KEY.replace("-", ""),
        RECOVERY_KEY.upper().replace("-", " "),
        RECOVERY_KEY[:40],
    ],
    ids=["sheet", "key", "letters", "typed", "half"],
)
def test_a_recovery_key_is_found(tmp_path: Path, shown: str) -> None:
    (tmp_path / "log").write_text(f"somebody wrote {shown} here\n")
    (tmp_path / "other").write_text(recovery.fresh())
    files = [tmp_path / "log", tmp_path / "other"]
    assert hygiene.search(files, hygiene.recovery_forms(RECOVERY_KEY)) == ["log"]
