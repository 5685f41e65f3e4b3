"""A recovery key is what systemd's are, and is understood however it is typed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crfs import recovery, runner
from crfs.errors import CommandError, UsageError
from tests.unit.hostile import file_text

KEY = "cccccccb-cdefghij-klnrtuvc-cccccccc-bbbbbbbb-dddddddd-eeeeeeee-ffffffff"


@given(st.binary(min_size=512, max_size=512), st.text(), st.text())
def test_derived_key_is_stable_and_of_its_run(key: bytes, one: str, other: str) -> None:
    made = recovery.derive(key, one)
    assert made == recovery.derive(key, one) == recovery.understand(made)
    assert (made == recovery.derive(key, other)) == (one == other)
    assert made != recovery.derive(bytes(512), one) or key == bytes(512)
    groups = made.split("-")
    assert [len(group) for group in groups] == [8] * 8


def test_known_key() -> None:
    """A later version has to derive the same: phase 2 may run another one than phase 1."""
    assert recovery.derive(bytes(512), "aaaaaaaa-0000-4000-8000-000000000000") == (
        "nckrrlbt-cefvdtrj-hjhckrrn-vfgnncel-fevkbtjr-knnhijrv-ubidvkrk-vjbjvkre"
    )


def test_fresh_keys_differ() -> None:
    assert len({recovery.fresh() for _ in range(100)}) == 100


@given(st.lists(st.sampled_from(" -\t\n"), max_size=20), st.data())
def test_understood_however_it_is_typed(gaps: list[str], data: st.DataObject) -> None:
    letters = list(KEY.replace("-", ""))
    for gap in gaps:
        letters.insert(data.draw(st.integers(min_value=0, max_value=len(letters))), gap)
    typed = "".join(data.draw(st.sampled_from([one, one.upper()])) for one in letters)
    assert recovery.understand(typed) == KEY


@given(file_text)
def test_anything_else_is_refused(typed: str) -> None:
    with pytest.raises(UsageError) as caught:
        recovery.understand(typed)
    assert caught.value.advice


@pytest.mark.parametrize("typed", ["", KEY[:-1], KEY + "c", KEY.replace("v", "w")])
def test_nearly_right_is_refused(typed: str) -> None:
    with pytest.raises(UsageError):
        recovery.understand(typed)


def test_sheet_has_the_whole_key_and_its_code_goes_through_a_pipe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[list[str], bytes]] = []

    def run(argv: list[str], stdin: bytes = b"") -> bytes:
        asked.append((argv, stdin))
        return "\u2588\u2580\u2588\n".encode()

    monkeypatch.setattr(runner, "run", run)
    monkeypatch.setattr("shutil.which", lambda name, path: "/usr/bin/qrencode")
    shown = recovery.sheet(KEY)
    assert recovery.understand("".join(shown.splitlines()[2:4])) == KEY
    assert shown.endswith("\u2588\u2580\u2588")
    assert asked[0][1] == KEY.encode()
    assert all(KEY not in word for word in asked[0][0])


def test_sheet_without_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(argv: list[str], stdin: bytes) -> bytes:
        raise CommandError("no")

    monkeypatch.setattr(runner, "run", fail)
    monkeypatch.setattr("shutil.which", lambda name, path: "/usr/bin/qrencode")
    assert "not stored" in recovery.sheet(KEY)
    monkeypatch.setattr("shutil.which", lambda name, path: None)
    assert "\u2588" not in recovery.sheet(KEY)
