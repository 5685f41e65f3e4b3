"""Each step is declared once and completely; documentation and dry run come from there."""

from __future__ import annotations

import dataclasses
import re

import pytest

from crfs import steps
from crfs.steps import Step
from crfs.steps.base import filesystem_bytes, filesystem_limit, inodes
from tests.unit.pi import GB, plan


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
        "read-back",
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
        "start-services",
        "erase-stick",
        "finish-boot",
        "grow",
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
    for used in (0, 4 * GB, 29 * GB, 64 * GB):
        one = dataclasses.replace(plan(), used=used)
        made = filesystem_bytes(one)
        assert made % 4096 == 0
        assert made <= filesystem_limit(one) <= one.card.root_size - 4 * 2**20
        assert filesystem_limit(one) <= one.stick.size - 8 * 2**20


def test_filesystem_is_no_larger_than_needed() -> None:
    """What is behind it is scrubbed while the system is in use again."""
    made = filesystem_bytes(plan())
    assert plan().used * 1.1 < made < plan().used * 1.25


def test_inodes_are_as_dense_as_on_the_plain_root_and_enough() -> None:
    one = plan()
    share = filesystem_bytes(one) / one.card.root_size
    assert abs(inodes(one) - one.inodes * share) <= 1
    crowded = dataclasses.replace(one, files=1900000)
    assert inodes(crowded) > crowded.files * 1.2
    assert filesystem_bytes(crowded) > filesystem_bytes(one) + 1800000 * 256
