"""Every question of Zymbit's HSM6 FAQ has an answer, and the answer is there."""

from __future__ import annotations

import argparse
import collections
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from crfs import checks, cli, topics

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
FAQ = tomllib.loads((DOCS / "faq.toml").read_text())
ENTRIES: list[dict[str, Any]] = FAQ["entry"]
_KEYS = {"kind", "asks", "checks", "commands", "topics", "pages"}


def _choices(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser | None]:
    """What may follow a command as its first word."""
    found: dict[str, argparse.ArgumentParser | None] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found.update(action.choices)
        elif action.choices and not action.option_strings:
            found.update(dict.fromkeys(map(str, action.choices)))
    return found


def exists(command: str) -> bool:
    """Whether crfs has this command, with this action if it has actions."""
    parser: argparse.ArgumentParser | None = cli.build_parser()
    for word in command.split()[1:]:
        choices = _choices(parser) if parser else {}
        if not choices:
            return True
        if word not in choices:
            return False
        parser = choices[word]
    return True


def test_the_list_is_complete() -> None:
    assert collections.Counter(entry["kind"] for entry in ENTRIES) == FAQ["counts"]
    asked = [entry["asks"] for entry in ENTRIES]
    assert len(set(asked)) == len(asked)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: str(entry["asks"]))
def test_question_is_answered(entry: dict[str, Any]) -> None:
    assert set(entry) <= _KEYS
    answers = [one for key in _KEYS - {"kind", "asks"} for one in entry.get(key, ())]
    assert answers, "nothing answers this"
    known = {topic.id for topic in topics.TOPICS}
    assert set(entry.get("topics", ())) <= known
    for command in entry.get("commands", ()):
        assert command.startswith("crfs ") and exists(command), command
    for page in entry.get("pages", ()):
        name, _, anchor = page.partition("#")
        headings = re.findall(r"(?m)^#+ (.*)$", (DOCS / name).read_text())
        anchors = {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}
        assert not anchor or anchor in anchors, page


def test_checks_exist() -> None:
    named = {check for entry in ENTRIES for check in entry.get("checks", ())}
    assert named <= {check.id for check in checks.ALL}


def test_every_topic_answers_a_question() -> None:
    named = {topic for entry in ENTRIES for topic in entry.get("topics", ())}
    assert named == {topic.id for topic in topics.TOPICS}


def test_an_unknown_command_is_noticed() -> None:
    assert exists("crfs status") and exists("crfs recovery-key add")
    assert not exists("crfs frobnicate") and not exists("crfs recovery-key frobnicate")
