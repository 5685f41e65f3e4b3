"""The persistent state machine of a migration.

A state is written to the journal before its work begins (`before_state_change`), so that a cut
at any moment finds the machine in a state whose work can be repeated. Where each boot landed is
asked of the devices; `reconcile` brings the two together.
"""

from __future__ import annotations

from typing import Any

from transitions import Machine

from crfs import bootconfig, probe, steps
from crfs.errors import DisagreementError, HsmError, StateError
from crfs.model import STAGE_MAPPING, Halt
from crfs.steps import (
    DONE,
    FINISHING,
    RESTORING,
    ROLLING_BACK,
    SETTLING,
    STAGING,
    TRYING_ROOT,
    TRYING_STAGE,
)

STATES = (*steps.BY_STATE, DONE, ROLLING_BACK)
TRANSITIONS: tuple[tuple[str, Any, str], ...] = (
    ("settle", STAGING, SETTLING),
    ("try_stage", SETTLING, TRYING_STAGE),
    ("fall_back", [SETTLING, TRYING_STAGE, RESTORING], STAGING),
    ("restore", TRYING_STAGE, RESTORING),
    ("try_root", RESTORING, TRYING_ROOT),
    ("finish", TRYING_ROOT, FINISHING),
    ("retry_root", FINISHING, TRYING_ROOT),
    ("restore_again", TRYING_ROOT, RESTORING),
    ("complete", FINISHING, DONE),
    ("roll_back", [STAGING, SETTLING, TRYING_STAGE, RESTORING, ROLLING_BACK], ROLLING_BACK),
)
# What comes after the steps of a state.
NEXT = {STAGING: "settle", SETTLING: "try_stage", RESTORING: "try_root", FINISHING: "complete"}
MAX_TRIALS = 3
MAX_ATTEMPTS = 5

_WHERE = {
    bootconfig.PLAIN: "the card's plain root",
    bootconfig.STAGE: "the stick",
    bootconfig.ROOT: "cryptrfs",
}


class Migration:
    """The machine over a context; its triggers are the first names in TRANSITIONS."""

    state: str

    def __init__(self, context: steps.Context) -> None:
        self.context = context
        self._machine = Machine(
            self,
            states=list(STATES),
            initial=context.record.state,
            auto_transitions=False,
            send_event=True,
            before_state_change=self._persist,
        )
        for trigger, source, target in TRANSITIONS:
            self._machine.add_transition(trigger, source, target)

    def _persist(self, event: object) -> None:
        target = event.transition.dest  # type: ignore[attr-defined]
        changes: dict[str, Any] = {"state": target, "step": "", "finished": (), "offset": 0}
        if target == STAGING:
            # Key, stick and filesystem are there; what is live is looked at again.
            changes["finished"] = tuple(step.id for step in steps.BY_STATE[STAGING])
        # A phase that was reached by a boot has its own count of failures.
        if target in (RESTORING, FINISHING, ROLLING_BACK):
            changes["trials"] = changes["attempts"] = 0
        self.context.save(**changes, boot_id=probe.boot_id(), halt=None)

    def reconcile(self) -> Halt | None:
        """Bring the journal's state in line with the root that this boot runs from.

        Returns a Halt where a person is needed. Raises DisagreementError where the two cannot be
        brought together.
        """
        record = self.context.record
        where = self.context.where()
        same_boot = record.boot_id == probe.boot_id()
        match (self.state, where):
            case ("staging", bootconfig.PLAIN) | ("restoring", bootconfig.STAGE):
                return None
            case ("finishing" | "done", bootconfig.ROOT) | ("rolling_back", _):
                return None
            case ("settling", bootconfig.PLAIN):
                if not same_boot:
                    # Services have run since: most of the copying is done beside them again.
                    self.fall_back_and_disarm()
                return None
            case ("trying_stage", bootconfig.STAGE):
                self._require_unlocked(STAGE_MAPPING)
                self._trigger("restore")
                return None
            case ("trying_stage", bootconfig.PLAIN):
                if not same_boot:
                    return self._fell_back("the stick")
                if not probe.is_read_only("/"):
                    # Somebody has let programs write again: the copy is out of date.
                    self.fall_back_and_disarm()
                return None
            case ("restoring", bootconfig.PLAIN) if self.is_left_behind():
                self.fall_back_and_disarm()
                return None
            case ("trying_root", bootconfig.ROOT):
                self._trigger("finish")
                return None
            case ("trying_root", bootconfig.STAGE):
                return None if same_boot else self._fell_back("cryptrfs")
            case ("finishing", bootconfig.STAGE):
                self._trigger("retry_root")
                return None
        raise DisagreementError(
            f"The journal says '{self.state}', but this boot runs from {_WHERE[where]}.",
            data="No disk was written to.",
            advice="look at 'sudo crfs status'; if you restored a backup of the card or of its "
            "boot partition, restore both from the same time",
        )

    def is_left_behind(self) -> bool:
        """Whether the plain root is in use although the journal has it waiting to be given up."""
        plain = self.context.where() == bootconfig.PLAIN
        return plain and self.state == RESTORING and not self.context.record.destroyed

    def _fell_back(self, target: str) -> Halt | None:
        """A trial boot did not reach its goal: try again, or stop and say why."""
        record = self.context.record
        note = self.context.boot.failure_note
        plain = self.state == TRYING_STAGE
        if plain:
            # `prepare-boot` comes before `read-back`: the initramfs may be built of files that the
            # stick had lost. They are whole by now.
            self.context.save(fingerprint="")
            # Services run again: the copy on the stick is out of date and must not be booted.
            self.fall_back_and_disarm()
        data = (
            "The card is untouched and in use as before."
            if plain
            else "The verified copy on the stick is whole; this system runs from it."
        )
        ways = "'sudo crfs resume' tries again"
        if plain:
            ways += ", 'sudo crfs rollback' puts everything back"
        if note.exists():
            said = probe.printable(note.read_text(errors="replace").strip()).removeprefix("hsm: ")
            return Halt(
                code=HsmError.code,
                what=f"The trial boot from {target} failed, because the "
                f"{self.context.binding.TITLE} did not open the key: {said}",
                data=data,
                advice=f"look at the module's seat (and the HSM's blue LED); then {ways}",
                needs_human=True,
            )
        if record.trials >= MAX_TRIALS:
            if not plain:
                ways += (
                    "; if it shows that cryptrfs is damaged, 'sudo crfs resume --restore-again' "
                    "copies the root to the card again (what was written there since is lost)"
                )
            return Halt(
                code=StateError.code,
                what=f"{record.trials} trial boots from {target} did not reach their goal.",
                data=data,
                advice=f"look at the screen or serial console during such a boot; {ways}",
                needs_human=True,
            )
        if not plain:
            self.context.save(finished=(), boot_id=probe.boot_id(), halt=None)
        return None

    def fall_back_and_disarm(self) -> None:
        """Back to copying from the plain card; no boot may lead to the stick meanwhile."""
        # Disarmed first: a cut in between must not boot a copy that the state calls unfinished.
        self.context.boot.disarm()
        if self.state != STAGING:
            self._trigger("fall_back")

    def advance(self) -> None:
        """All steps of the state are done: on to the next."""
        self._trigger(NEXT[self.state])

    def _trigger(self, name: str) -> None:
        getattr(self, name)()

    def _require_unlocked(self, mapping: str) -> None:
        if not probe.unlocked_by_itself(mapping):
            raise DisagreementError(
                "This boot runs from the stick, but it was not the "
                f"{self.context.binding.TITLE} that unlocked it.",
                data="The card's root is untouched.",
                advice="reboot: the card's own root is still the default",
            )
