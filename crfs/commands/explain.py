"""`crfs explain`: answers to what no check can look up."""

from __future__ import annotations

import json
import textwrap

from crfs import topics
from crfs.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:  # see live.py
    import argparse

    from crfs.topics import Topic

_WIDTH = 79


def run(args: argparse.Namespace) -> int:
    text = " ".join(args.topic)
    found = topics.find(text) if text else list(topics.TOPICS)
    if not found:
        raise UsageError(
            f"There is no topic '{text[:60]}'.",
            data="Nothing was changed.",
            advice="'crfs explain' lists all topics",
        )
    if args.json:
        rows = [{"id": one.id, "title": one.title, "text": one.paragraphs} for one in found]
        print(json.dumps(rows, indent=1))
    elif len(found) == 1:
        print(tell(found[0]))
    else:
        width = max(len(topic.id) for topic in found)
        print("\n".join(f"{topic.id:{width}}  {topic.title}" for topic in found))
        print("\n'crfs explain TOPIC' tells more.")
    return 0


def tell(topic: Topic) -> str:
    """One topic for a terminal."""
    paragraphs = (topic.title, *topic.paragraphs)
    return "\n\n".join(_wrap(one.replace("`", "'")) for one in paragraphs)


def _wrap(text: str) -> str:
    if text.startswith("    "):
        return text
    return textwrap.fill(text, _WIDTH, break_long_words=False, break_on_hyphens=False)
