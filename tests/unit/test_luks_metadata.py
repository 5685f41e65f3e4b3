"""What a LUKS header says of itself is read, or refused; never more."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crfs import luks
from crfs.errors import CommandError
from tests.unit.hostile import json_values, paths, replaced

HEADER = {
    "keyslots": {"0": {"type": "luks2"}, "1": {"type": "luks2"}},
    "tokens": {
        "0": {"type": "crfs-recovery", "keyslots": ["1"]},
        "12": {"type": "crfs-device", "keyslots": [], "partuuid": "cafe0001-02"},
    },
    "config": {},
}


def test_a_header_of_crfs() -> None:
    found = luks.parse_metadata(json.dumps(HEADER))
    assert found.keyslots == {"0", "1"}
    assert found.tokens["12"]["partuuid"] == "cafe0001-02"


def _harmless(text: str) -> None:
    """Numbers that go to cryptsetup's command line are numbers."""
    try:
        found = luks.parse_metadata(text)
    except CommandError:
        return
    for one in found.tokens.values():
        assert isinstance(one["type"], str)
        assert all(slot.isdigit() for slot in one["keyslots"])
    assert all(number.isdigit() for number in (*found.keyslots, *found.tokens))


@given(st.text() | json_values.map(json.dumps))
def test_any_text(text: str) -> None:
    _harmless(text)


@given(st.sampled_from(paths(HEADER)), json_values)
def test_a_hostile_value_in_one_place(path: tuple[Any, ...], value: Any) -> None:
    _harmless(json.dumps(replaced(HEADER, path, value)))


@pytest.mark.parametrize("slot", ["--help", "/dev/sda", "1 2", "", "100", "\u0661"])
def test_a_keyslot_that_is_no_number(slot: str) -> None:
    tokens = {"0": {"type": "crfs-recovery", "keyslots": [slot]}}
    with pytest.raises(CommandError):
        luks.parse_metadata(json.dumps({**HEADER, "tokens": tokens}))


def test_nested_too_deep() -> None:
    with pytest.raises(CommandError):
        luks.parse_metadata("[" * 100_000)
