"""What a check is, and what it can find."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from crfs import probe
from crfs.checks.machine import Machine
from crfs.errors import CrfsError, LayoutError

FAQ = "Zymbit's HSM6 FAQ"


class Verdict(Enum):
    """From the best to the worst."""

    OK = "ok"
    CANNOT_TELL = "cannot tell"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True)
class Finding:
    """What a check found, in one line; `advice` is the next step, "" where there is none.

    `root_would_tell` goes with CANNOT_TELL: it is only the missing right to look.
    """

    verdict: Verdict
    said: str
    advice: str = ""
    root_would_tell: bool = False


def ok(said: str) -> Finding:
    return _found(Verdict.OK, said)


def warning(said: str, advice: str) -> Finding:
    return _found(Verdict.WARNING, said, advice)


def failure(said: str, advice: str) -> Finding:
    return _found(Verdict.FAILURE, said, advice)


def cannot_tell(why: str, advice: str = "", *, needs_root: bool = False) -> Finding:
    """`needs_root` says that the right to look is what is missing, unless root looks already."""
    return _found(Verdict.CANNOT_TELL, why, advice, needs_root and os.geteuid() != 0)


def _found(verdict: Verdict, said: str, advice: str = "", root_would_tell: bool = False) -> Finding:
    """Names and settings come from whoever wrote the card: nothing but printable text goes on."""
    said, advice = probe.printable_line(said), probe.printable_line(advice)
    return Finding(verdict, said, advice, root_would_tell)


@dataclass(frozen=True)
class Check:
    """One question about the machine, declared once.

    `looks_at` says in a few words what is read, `source` where the knowledge comes from. `stops`
    is the error with which `crfs encrypt` refuses when the check fails or cannot tell; None: it
    only warns of it.
    """

    id: str
    looks_at: str
    source: str
    look: Callable[[Machine], Finding]
    stops: type[CrfsError] | None = None

    def ask(self, machine: Machine) -> Finding:
        """What it finds; whatever is odd about the files it reads means that it cannot tell."""
        try:
            return self.look(machine)
        except PermissionError as problem:
            return cannot_tell(f"may not read {problem.filename}", needs_root=True)
        except LayoutError:
            return cannot_tell("there is no boot partition to look at")
        except CrfsError as problem:
            return cannot_tell(problem.what)
        # A check meets files in any state of decay; none of them is worth a traceback.
        except Exception as problem:
            return cannot_tell(f"{type(problem).__name__}: {problem}".split("\n", 1)[0])
