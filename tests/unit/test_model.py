"""`model.load` takes exactly what `model.dump` gives, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crfs import model
from crfs.model import Halt, Record, StepRecord
from tests.unit.hostile import json_values, paths, replaced
from tests.unit.pi import record

FULL = record(
    "restoring",
    step="restore",
    finished=("make-stage-default", "discard-root"),
    attempts=2,
    trials=1,
    offset=123456789,
    fingerprint="f" * 64,
    destroyed=True,
    halt=Halt(19, "what", "data", "advice", True),
    done_steps=(StepRecord("copy", 12.5, 10**9),),
)
PARSED = json.loads(json.dumps(model.dump(FULL)))


def test_round_trip() -> None:
    assert model.load(Record, PARSED) == FULL


@given(json_values)
def test_hostile_value(value: Any) -> None:
    with pytest.raises(ValueError, match="Record"):
        model.load(Record, value)


@given(st.sampled_from(paths(PARSED)), json_values)
def test_hostile_value_in_one_place(path: tuple[Any, ...], value: Any) -> None:
    """Refused with ValueError, or of the declared type; the same data comes out again."""
    changed = replaced(PARSED, path, value)
    try:
        loaded = model.load(Record, changed)
    except ValueError:
        return
    assert model.load(Record, json.loads(json.dumps(model.dump(loaded)))) == loaded


@pytest.mark.parametrize("path", [path for path in paths(PARSED) if path])
def test_each_field_is_needed(path: tuple[Any, ...]) -> None:
    if isinstance(path[-1], int):
        return  # lists may have any length
    parent: Any = PARSED
    for key in path[:-1]:
        parent = parent[key]
    rest = {name: value for name, value in parent.items() if name != path[-1]}
    for wrong in (rest, {**parent, "surplus": 1}):
        with pytest.raises(ValueError, match="exactly its fields"):
            model.load(Record, replaced(PARSED, path[:-1], wrong))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("offset",), -1),
        (("offset",), True),
        (("offset",), 1.0),
        (("destroyed",), 1),
        (("state",), "a\nb"),
        (("state",), "a\x1b[2J"),
        (("plan", "uuids", "root_luks"), "../../etc/passwd"),
        (("plan", "uuids", "root_luks"), "AAAAAAAA-0000-4000-8000-000000000003"),
        (("finished",), "restore"),
        (("halt",), []),
        (("done_steps", 0, "seconds"), float("nan")),
        (("done_steps", 0, "seconds"), float("inf")),
        (("done_steps", 0, "seconds"), 10**400),
    ],
)
def test_refused(path: tuple[Any, ...], value: Any) -> None:
    with pytest.raises(ValueError):
        model.load(Record, replaced(PARSED, path, value))
