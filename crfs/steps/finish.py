"""Phase 3, from `cryptrfs`: it becomes the default, and the migration's traces go."""

from __future__ import annotations

from crfs import blocks, luks, probe
from crfs.bootconfig import ROOT
from crfs.errors import CommandError, DisagreementError, StickError
from crfs.model import ROOT_MAPPING, STAGE_MAPPING, Plan
from crfs.steps.base import (
    READING_IS_FASTER,
    Context,
    Step,
    filesystem_bytes,
    mapping,
)

_GROW_BY = 4 * 2**30  # bytes cleared before the filesystem grows over them
_LEAST_GROWTH = 2**20


def _make_root_default(context: Context) -> None:
    if context.where() != ROOT or not probe.unlocked_by_itself(ROOT_MAPPING):
        raise DisagreementError(
            f"This boot does not run from cryptrfs, unlocked by the {context.binding.TITLE}.",
            data="Stick and card are as phase 2 left them.",
            advice="'sudo crfs resume'",
        )
    context.boot.make_default(ROOT)


def _erase_stick(context: Context) -> None:
    """Without its header nobody can read the stick any more, whoever finds it."""
    luks.close_mapping(STAGE_MAPPING)
    if context.plan.keep_stage:
        context.say("the stick keeps its copy, which the HSM's key and the recovery key open")
        return
    try:
        stick = probe.find_stage(context.plan.uuids.stage_luks)
    except StickError:
        context.say("the stick is not there or erased already; if it was pulled, erase it by hand")
        return
    luks.erase(stick.path)


def _grow(context: Context) -> None:
    """Clear a part of what lies behind the filesystem, let it grow over that, and so on.

    Nobody reads or writes behind it, and services have more room after each part. How far this
    is, the filesystem itself tells.
    """
    path = mapping(ROOT_MAPPING)
    whole = blocks.device_size(path)
    end = blocks.size_of(path)
    last = 0
    while end != last and whole - end >= _LEAST_GROWTH:
        target = min(end + _GROW_BY, whole // luks.BLOCK * luks.BLOCK)
        _clear(context, end, target)
        blocks.grow("/", target)
        last, end = end, blocks.size_of(path)
    # A last group that would be too small is left out.
    _clear(context, end, context.root_partition().size - luks.DATA_OFFSET)


def _clear(context: Context, begin: int, end: int) -> None:
    """See that nothing of the old root is left between two positions of the mapping."""
    part = context.root_partition()
    rest = part.size - luks.DATA_OFFSET
    shift = luks.DATA_OFFSET

    def still_behind() -> None:
        if blocks.size_of(mapping(ROOT_MAPPING)) > begin:
            raise CommandError(
                "The filesystem was resized by somebody else meanwhile.",
                data="Nothing of it was touched.",
                advice="'sudo crfs resume'",
            )

    def report(position: int, done: int) -> None:
        context.report(position - shift, rest)

    overwritten = blocks.blank(part.path, [(begin + shift, end + shift)], 0, report, still_behind)
    if overwritten:
        context.say(f"{probe.human(overwritten)} of the old root had to be overwritten")


def _rest(plan: Plan) -> float:
    return (plan.card.root_size - filesystem_bytes(plan)) / READING_IS_FASTER


def _finish_boot(context: Context) -> None:
    context.boot.make_final()


def _start_services(context: Context) -> None:
    context.binding.give_back(context.plan.services)


FINISHING = (
    Step(
        id="make-root-default",
        title="Make cryptrfs the default boot",
        why="it has booted, unlocked by the HSM or TPM",
        do=_make_root_default,
    ),
    Step(
        id="start-services",
        title="Start Zymbit's services again",
        why="they were stopped while the migration used the HSM; a TPM has none",
        do=_start_services,
    ),
    Step(
        id="erase-stick",
        title="Erase the stick's keys",
        why="the copy on it can never be opened again",
        do=_erase_stick,
        destroys="the copy on the stick",
    ),
    Step(
        id="finish-boot",
        title="Write the lasting boot configuration",
        why="cmdline.txt names the encrypted root, as users expect it",
        do=_finish_boot,
    ),
    Step(
        id="grow",
        title="Clear the rest of the card and let the filesystem fill it",
        why="what the discard left readable is overwritten, while the system is in use again",
        do=_grow,
        bytes=_rest,
    ),
)
