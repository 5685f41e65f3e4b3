"""Each step is declared once and completely; documentation and dry run come from there."""

from __future__ import annotations

import re

import pytest

from crfs import steps
from crfs.steps import Step
from crfs.steps.base import filesystem_bytes
from tests.unit.pi import plan


def ids(step: Step) -> str:
    return step.id


@pytest.mark.parametrize("step", steps.ALL, ids=ids)
def test_declaration_is_complete(step: Step) -> None:
    assert re.fullmatch(r"[a-z][a-z-]+", step.id)
    assert step.title[0].isupper()
    assert not step.title.endswith(".")
    assert step.why
    assert step.bytes(plan()) > 0


def test_ids_are_stable() -> None:
    """They are in journals of runs that are under way, and in reports."""
    assert [step.id for step in steps.ALL] == [
        "seal-key",
        "format-stick",
        "make-filesystem",
        "copy",
        "prepare-boot",
        "stop-services",
        "settle",
        "compare-stage",
        "arm-stage",
        "make-stage-default",
        "discard-root",
        "format-root",
        "restore",
        "compare-root",
        "scrub",
        "arm-root",
        "make-root-default",
        "grow",
        "erase-stick",
        "finish-boot",
        "start-services",
    ]


def test_what_destroys_says_so() -> None:
    assert {step.id for step in steps.ALL if step.destroys} == {
        "format-stick",
        "discard-root",
        "erase-stick",
    }


def test_root_is_destroyed_only_after_all_proofs() -> None:
    order = [step.id for step in steps.ALL]
    for proof in ("compare-stage", "arm-stage", "make-stage-default"):
        assert order.index(proof) < order.index("discard-root")
    for proof in ("compare-root", "scrub", "arm-root", "make-root-default"):
        assert order.index(proof) < order.index("erase-stick")


def test_filesystem_fits_stick_and_card() -> None:
    made = filesystem_bytes(plan())
    assert made % 4096 == 0
    assert made <= plan().card.root_size - 16 * 2**20
    assert made <= plan().stick.size - 16 * 2**20
