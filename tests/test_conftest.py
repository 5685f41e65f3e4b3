"""The guard against real commands really guards."""

from __future__ import annotations

import os
import subprocess

import pytest
import sh

from crfs import runner


def test_subprocess_is_refused() -> None:
    with pytest.raises(pytest.fail.Exception, match="real command"):
        subprocess.run(["true"], check=True)


def test_sh_is_refused() -> None:
    with pytest.raises(pytest.fail.Exception, match="real command"):
        sh.Command("/bin/true")()


def test_the_runner_is_refused() -> None:
    with pytest.raises(pytest.fail.Exception, match="real command"):
        runner.query(["true"])


def test_os_system_is_refused() -> None:
    with pytest.raises(pytest.fail.Exception, match="real command"):
        os.system("true")


@pytest.mark.real_commands
def test_a_mark_allows_them() -> None:
    assert runner.query(["echo", "hello"]) == "hello\n"
