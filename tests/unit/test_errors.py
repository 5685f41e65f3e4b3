"""Every refusal tells what to do next, and no two kinds share a code."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from crfs import errors
from crfs.errors import CrfsError

PACKAGE = Path(errors.__file__).parent
KINDS = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, CrfsError)
}


def test_codes_are_stable() -> None:
    """Scripts rely on them: a code may be added, never changed."""
    assert {name: kind.code for name, kind in KINDS.items()} == {
        "CrfsError": 10,
        "UsageError": 2,
        "NotRootError": 11,
        "LayoutError": 12,
        "StickError": 13,
        "HostError": 14,
        "HsmError": 15,
        "BusyError": 16,
        "JournalError": 17,
        "StateError": 18,
        "CommandError": 19,
        "DisagreementError": 20,
        "VerifyError": 21,
        "RehearsalError": 22,
        "Declined": 23,
        "DoctorUnsure": 30,
        "DoctorWarning": 31,
        "DoctorFailure": 32,
    }


def test_text_has_three_parts() -> None:
    error = errors.StickError("No stick.", advice="plug one in")
    assert str(error).split("\n") == ["No stick.", errors.UNTOUCHED, "Next: plug one in"]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.name)
def test_every_error_has_a_next_step(path: Path) -> None:
    if "rehearsal" in path.parts:
        return
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in KINDS:
            assert any(word.arg == "advice" for word in node.keywords), (
                f"{path.name}:{node.lineno}: an error without a next step"
            )
