"""Everything that can stop crfs, each kind with its own exit code.

An error tells three things: what happened, what it means for the data, and what to do next.
The codes are stable: scripts may rely on them. They start at 10, above the codes that shells,
argparse (2) and systemd use.
"""

from __future__ import annotations

import errno

UNTOUCHED = "Nothing was changed: card and stick are untouched."
# Wherever a migration may be.
UNCHANGED = "Nothing was changed by this."
KEPT = "What was proven before is still there; nothing was given up."
CARD_UNTOUCHED = "The card is untouched."


class CrfsError(Exception):
    """Base of all errors that a user may see; `code` is the exit code of the command.

    `what` is one line, `data` says what it means for the user's data, `advice` is the next step.
    """

    code = 10

    def __init__(self, what: str, *, data: str = UNTOUCHED, advice: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.data = data
        self.advice = advice

    def __str__(self) -> str:
        parts = [self.what, self.data, f"Next: {self.advice}" if self.advice else ""]
        return "\n".join(part for part in parts if part)


class UsageError(CrfsError):
    """The command line cannot be understood, or the arguments contradict each other."""

    code = 2


class NotRootError(CrfsError):
    """The command needs root."""

    code = 11


class LayoutError(CrfsError):
    """The disks are not as this command needs them: card, root partition, boot partition."""

    code = 12


class StickError(CrfsError):
    """No usable USB stick: absent, too small, busy, read-only, ambiguous, or it holds data."""

    code = 13


class HostError(CrfsError):
    """Something of the operating system is missing or unsupported."""

    code = 14


class HsmError(CrfsError):
    """The HSM does not answer, refuses, or cannot open the key."""

    code = 15


class BusyError(CrfsError):
    """Another run holds the lock."""

    code = 16


class JournalError(CrfsError):
    """The journal cannot be read, or belongs to another card."""

    code = 17


class StateError(CrfsError):
    """The command does not fit the state that the migration is in."""

    code = 18


class CommandError(CrfsError):
    """A command failed, could not be started or ran out of time.

    `status` is the exit status that it ended with by itself, negative for a signal.
    """

    code = 19

    def __init__(
        self, what: str, *, data: str = UNTOUCHED, advice: str = "", status: int | None = None
    ) -> None:
        super().__init__(what, data=data, advice=advice)
        self.status = status

    @classmethod
    def of_system(cls, problem: OSError, then: str) -> CommandError:
        """What the kernel said, in place of an OSError; `then` is the command to go on with."""
        if problem.errno == errno.ENOSPC:
            see = "a filesystem is full: 'df -h' and 'df -i' tell which; make room there"
        else:
            see = "look for I/O errors in 'journalctl -k -b'"
        return cls(
            f"Reading or writing failed: {problem}.", data=KEPT, advice=f"{see}, then '{then}'"
        )


class DisagreementError(CrfsError):
    """Journal and devices disagree, or a copy differs from its source."""

    code = 20


class VerifyError(CrfsError):
    """`crfs verify` found something missing."""

    code = 21


class RehearsalError(CrfsError):
    """The virtual Pi could not be built or did not do what it should."""

    code = 22


class Declined(CrfsError):
    """The user answered no."""

    code = 23


class DoctorUnsure(CrfsError):
    """`crfs doctor` found nothing wrong, but could not tell everything."""

    code = 30


class DoctorWarning(CrfsError):
    """`crfs doctor` has warnings, but found no failure."""

    code = 31


class DoctorFailure(CrfsError):
    """`crfs doctor` found a failure."""

    code = 32
