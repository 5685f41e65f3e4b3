"""Boards are known by what real device trees call them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crfs import boards
from tests.unit.pi import FakePi

# As Raspberry Pi's firmware, Linux' own device trees, and L4T spell them.
MODELS = {
    "Raspberry Pi 3 Model B Rev 1.2": "Raspberry Pi 3",
    "Raspberry Pi 3 Model B": "Raspberry Pi 3",
    "Raspberry Pi 3 Model B Plus Rev 1.3": "Raspberry Pi 3B+",
    "Raspberry Pi 3 Model B+": "Raspberry Pi 3B+",
    "Raspberry Pi 4 Model B Rev 1.1": "Raspberry Pi 4",
    "Raspberry Pi 4 Model B Rev 1.5": "Raspberry Pi 4",
    "Raspberry Pi 5 Model B Rev 1.0": "Raspberry Pi 5",
    "Raspberry Pi 5 Model B Rev 1.1": "Raspberry Pi 5",
    "Raspberry Pi 400 Rev 1.0": "Raspberry Pi 400",
    "Raspberry Pi 500 Rev 1.0": "Raspberry Pi 500",
    "Raspberry Pi Zero Rev 1.3": "Raspberry Pi Zero",
    "Raspberry Pi Zero W Rev 1.1": "Raspberry Pi Zero",
    "Raspberry Pi Zero 2 W Rev 1.0": "Raspberry Pi Zero 2",
    "Raspberry Pi Compute Module 3 Rev 1.0": "Compute Module 3",
    "Raspberry Pi Compute Module 3 Plus Rev 1.0": "Compute Module 3",
    "Raspberry Pi Compute Module 4 Rev 1.1": "Compute Module 4",
    "Raspberry Pi Compute Module 5 Lite Rev 1.0": "Compute Module 5",
    "NVIDIA Jetson Nano Developer Kit": "Jetson Nano",
    "NVIDIA Jetson Nano 2GB Developer Kit": "Jetson Nano",
    "NVIDIA Jetson Xavier NX Developer Kit": "Jetson Xavier NX",
}
OTHERS = (
    "",
    "Raspberry Pi Model B Rev 2",
    "Raspberry Pi 2 Model B Rev 1.1",
    "Raspberry Pi 3 Model A Plus Rev 1.0",
    "Raspberry Pi Compute Module 4S Rev 1.0",
    "TI AM335x BeagleBone Black",
    "linux,dummy-virt",
)


def test_all_boards_are_met() -> None:
    assert set(MODELS.values()) == {board.name for board in boards.BOARDS}


@pytest.mark.parametrize(("model", "name"), MODELS.items())
def test_model_is_recognised_by_one_board(model: str, name: str) -> None:
    found = boards.recognise(model)
    assert found is not None and found.name == name
    assert found.encrypts == model.startswith("Raspberry Pi")


@pytest.mark.parametrize("model", OTHERS)
def test_other_models_are_not(model: str) -> None:
    assert boards.recognise(model) is None


@given(st.text(max_size=60))
def test_any_model_is_looked_up(text: str) -> None:
    found = boards.recognise(text)
    assert found is None or found in boards.BOARDS


def test_the_plan_names_the_board(pi: FakePi) -> None:
    model = pi.folder / "proc/device-tree/model"
    for content, name in (
        (b"Raspberry Pi 5 Model B Rev 1.0\0", "Raspberry Pi 5"),
        (b"a\x1b[2J\xff\0", "a?[2J\ufffd"),
        (b"", "unknown"),
    ):
        model.write_bytes(content)
        assert f"\nBoard: {name}\n" in pi.crfs("encrypt", "--dry-run").out
