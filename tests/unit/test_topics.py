"""`crfs explain`: every topic is found, and says what it promises."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crfs import cli, topics
from crfs.topics import TOPICS, Topic
from tests.test_faq import exists

_IDS = [topic.id for topic in TOPICS]


def crfs(*argv: str) -> int:
    return cli.main(["explain", *argv])


def test_ids_are_distinct_and_can_be_typed() -> None:
    assert len(set(_IDS)) == len(_IDS)
    assert all(re.fullmatch(r"[a-z0-9-]+", one) for one in _IDS)


@pytest.mark.parametrize("topic", TOPICS, ids=_IDS)
def test_topic_is_told(capsys: pytest.CaptureFixture[str], topic: Topic) -> None:
    assert crfs(topic.id) == 0
    out = capsys.readouterr().out
    assert out.startswith(topic.title)
    assert ("About the FAQ:" in out) == bool(topic.outdated)
    assert "Source: " in out and "`" not in out
    assert all(len(line) < 80 or line.startswith("    ") for line in out.splitlines())
    assert len(" ".join(topic.paragraphs)) < 1200, "short answers"


@pytest.mark.parametrize("topic", TOPICS, ids=_IDS)
def test_commands_in_the_answers_exist(topic: Topic) -> None:
    text = " ".join(topic.paragraphs)
    for typed in re.findall(r"`(?:sudo )?(crfs [^`]*)`", text):
        assert exists(typed), typed
    for named in re.findall(r"`crfs explain ([^`]*)`", text):
        assert named in _IDS, named


@pytest.mark.parametrize(
    ("typed", "id"),
    [
        ("lock tab", "lock-tab"),
        ("Lock_Tab", "lock-tab"),
        ("cmdline.txt", "cmdline"),
        ("brownout", "power-quality"),
        ("beaglebone", "other-boards"),
        ("ed25519", "curves"),
        ("selfdestruct", "self-destruct"),
        ("busybox", "kernel-shell"),
    ],
)
def test_other_ways_to_a_topic(capsys: pytest.CaptureFixture[str], typed: str, id: str) -> None:
    assert crfs("--json", *typed.split()) == 0
    assert id in [row["id"] for row in json.loads(capsys.readouterr().out)]


def test_several_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert crfs("battery") == 0
    assert capsys.readouterr().out.startswith("Do I need a battery?"), "an id is taken at its word"
    assert crfs("lock") == 0
    out = capsys.readouterr().out
    assert "lock-tab" in out and "clock" in out and "'crfs explain TOPIC'" in out


def test_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert crfs() == 0
    out = capsys.readouterr().out
    assert all(re.search(rf"(?m)^{re.escape(topic.id)} +\S", out) for topic in TOPICS)
    assert crfs("--json") == 0
    assert [row["id"] for row in json.loads(capsys.readouterr().out)] == _IDS


def test_unknown_topic(capsys: pytest.CaptureFixture[str]) -> None:
    assert crfs("xyzzy") == 2
    said = capsys.readouterr()
    assert not said.out and "Next: 'crfs explain'" in said.err


@given(st.text(max_size=60))
def test_any_topic_is_looked_for(text: str) -> None:
    assert all(isinstance(found, Topic) for found in topics.find(text))
