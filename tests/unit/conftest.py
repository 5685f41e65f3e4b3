"""Fixtures of the unit tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.pi import FakePi, build


@pytest.fixture
def pi(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> FakePi:
    """A healthy Pi with the newer layout of the boot partition."""
    return build(tmp_path, monkeypatch, capsys)


@pytest.fixture(params=["boot/firmware", "boot"])
def any_pi(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> FakePi:
    """A healthy Pi, once with each layout of the boot partition."""
    return build(tmp_path, monkeypatch, capsys, str(request.param))
