"""The one door for commands, with harmless real ones."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from crfs import runner
from crfs.errors import CommandError

pytestmark = pytest.mark.real_commands
KEY = bytes(range(256)) * 2


def failure(*argv: str, timeout: float = 20, ok: tuple[int, ...] = (0,)) -> CommandError:
    with pytest.raises(CommandError) as caught:
        runner.run(argv, timeout=timeout, ok=ok)
    return caught.value


def test_output_is_returned() -> None:
    assert runner.run(["printf", "a\\nb"]) == b"a\nb"
    assert runner.query(["printf", "a\\nb"]) == "a\nb"


def test_bytes_go_through_unchanged() -> None:
    assert runner.run(["cat"], stdin=KEY) == KEY
    assert runner.run(["cat"], stdin=b"") == b""
    big = os.urandom(3 * 2**20)
    assert runner.run(["cat"], stdin=big) == big


def test_lines_are_heard_as_they_come() -> None:
    heard: list[bytes] = []
    script = "seq 1 20000; printf '\\377 last\\n'; printf rest"
    assert runner.run(["sh", "-c", script], heard=heard.append) == b""
    assert heard == [b"%d" % number for number in range(1, 20001)] + [b"\xff last"]


def test_query_keeps_what_is_not_utf8() -> None:
    assert runner.query(["printf", "\\377"]).encode(errors="surrogateescape") == b"\xff"


def test_standard_input_is_closed() -> None:
    """A command that asks something must not wait for an answer."""
    assert runner.run(["cat"]) == b""


def test_environment_is_small() -> None:
    found = dict(line.split("=", 1) for line in runner.query(["env"]).splitlines())
    for name in ("PWD", "SHLVL", "_"):
        found.pop(name, None)
    assert found == runner.ENVIRONMENT


def test_arguments_are_no_shell_line(tmp_path: Path) -> None:
    text = f"$(touch {tmp_path}/x); `id` * ~ 'q' \""
    assert runner.query(["printf", "%s", text]) == text
    assert not list(tmp_path.iterdir())


def test_exit_code_and_standard_error_are_told() -> None:
    error = failure("sh", "-c", "echo out; echo why >&2; echo because >&2; exit 3")
    assert error.code == 19
    assert error.status == 3
    assert "exit code 3" in error.what
    assert "why\nbecause" in error.advice


def test_whole_standard_error_is_kept() -> None:
    error = failure("sh", "-c", "seq 1 5000 >&2; exit 1")
    assert "\n1\n" in f"\n{error.advice.rpartition(': ')[2]}\n"
    assert error.advice.endswith("5000")


def test_expected_exit_codes_are_no_failure() -> None:
    assert runner.run(["sh", "-c", "echo x; exit 3"], ok=(0, 3)) == b"x\n"
    assert "exit code 4" in failure("sh", "-c", "exit 4", ok=(0, 3)).what


def test_failure_without_a_word() -> None:
    error = failure("false")
    assert "exit code 1" in error.what
    assert error.advice


def test_signal() -> None:
    assert "signal 9" in failure("sh", "-c", "kill -9 $$").what


def test_time_limit() -> None:
    began = time.monotonic()
    error = failure("sleep", "30", timeout=0.3)
    assert time.monotonic() - began < 10
    assert "'sleep 30' did not end within" in error.what


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit])
def test_who_is_interrupted_ends_at_once(ending: type[BaseException]) -> None:
    """Python waits for all threads before it ends, and a time limit is one."""

    def interrupt(number: int, frame: object) -> None:
        raise ending

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(ending):
            runner.run(["sleep", "2"], timeout=600)
    finally:
        signal.signal(signal.SIGALRM, before)
    limits = [one for one in threading.enumerate() if isinstance(one, threading.Timer)]
    for one in limits:
        one.join(1)
    assert not [one for one in limits if one.is_alive()]


def test_command_that_is_not_there() -> None:
    for name in ("crfs-no-such-command", "/no/such/command"):
        error = failure(name)
        assert "not installed" in error.what
        assert error.advice


def test_only_the_fixed_path_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "crfs-fake"
    fake.write_text("#!/bin/sh\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    failure("crfs-fake")
    assert runner.run(["true"]) == b""


def test_key_is_not_in_the_logs(caplog: pytest.LogCaptureFixture) -> None:
    secret = b"0123456789abcdef-the-key"
    with caplog.at_level(logging.DEBUG):
        runner.run(["cat"], stdin=secret)
        with pytest.raises(CommandError) as caught:
            runner.run(["sh", "-c", "cat >/dev/null; exit 1"], stdin=secret)
    assert "the-key" not in caplog.text
    assert "the-key" not in str(caught.value)


def test_meaning_for_the_data_is_handed_on() -> None:
    with pytest.raises(CommandError) as caught:
        runner.run(["false"], data="The card is untouched.")
    assert caught.value.data == "The card is untouched."


def test_working_folder_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert runner.query(["pwd"]) == "/\n"
