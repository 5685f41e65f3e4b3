"""Rules for all tests."""

from __future__ import annotations

import os
import subprocess
from typing import NoReturn

import hypothesis
import pytest
import sh

# How long an example takes tells how busy the machine is.
hypothesis.settings.register_profile("crfs", deadline=None)
hypothesis.settings.load_profile("crfs")

# Tests with one of these marks may start real commands.
_MAY_RUN = ("integration", "pi", "real_commands")

# Their very purpose is real commands, in a virtual machine or on images.
_OTHER_FOLDERS = {"integration", "rehearsal"}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "real_commands: starts harmless commands (cat, ruff ...)")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the fault tests have counted is shown also when they pass."""
    for report in terminalreporter.getreports("passed"):
        if report.nodeid.startswith("tests/cuts/") and report.when == "call" and report.capstdout:
            terminalreporter.section(report.nodeid)
            terminalreporter.write(report.capstdout)


@pytest.fixture(autouse=True)
def no_real_commands(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit test must not start a command: on a developer's machine it might find a real disk."""
    by_folder = _OTHER_FOLDERS & set(request.path.parts)
    if by_folder or any(request.node.get_closest_marker(mark) for mark in _MAY_RUN):
        return

    def refuse(*args: object, **kwargs: object) -> NoReturn:
        pytest.fail(f"a unit test started a real command: {args} {kwargs}")

    monkeypatch.setattr(subprocess.Popen, "_execute_child", refuse)
    monkeypatch.setattr(sh.Command, "__call__", refuse)
    for name in ("system", "popen", "posix_spawn", "posix_spawnp", "fork", "forkpty", "execve"):
        monkeypatch.setattr(os, name, refuse)
