"""The steps of a migration, by the state of the machine in which they run, in their order."""

from crfs.steps import finish, restore, stage
from crfs.steps.base import Context, Step

STAGING = "staging"
SETTLING = "settling"
TRYING_STAGE = "trying_stage"
RESTORING = "restoring"
TRYING_ROOT = "trying_root"
FINISHING = "finishing"
DONE = "done"
ROLLING_BACK = "rolling_back"

BY_STATE: dict[str, tuple[Step, ...]] = {
    STAGING: stage.STAGING,
    SETTLING: stage.SETTLING,
    TRYING_STAGE: stage.TRYING,
    RESTORING: restore.RESTORING,
    TRYING_ROOT: restore.TRYING,
    FINISHING: finish.FINISHING,
}

ALL: tuple[Step, ...] = tuple(step for steps in BY_STATE.values() for step in steps)

__all__ = [
    "ALL", "BY_STATE", "DONE", "FINISHING", "RESTORING", "ROLLING_BACK",
    "SETTLING", "STAGING", "TRYING_ROOT", "TRYING_STAGE", "Context", "Step",
]  # fmt: skip
