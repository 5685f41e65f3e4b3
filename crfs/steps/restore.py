"""Phase 2, from the stick: the card's root becomes `cryptrfs` and gets its content back.

The stage is the lower layer of the running system and does not change; every step can be done
again from it. The HSM or TPM has unlocked it in this boot, or phase 2 would not run.
"""

from __future__ import annotations

from crfs import blocks, luks, probe, runner
from crfs.bootconfig import ROOT, STAGE
from crfs.errors import CommandError, DisagreementError
from crfs.model import ROOT_MAPPING, STAGE_MAPPING, Plan
from crfs.steps.base import (
    READING_IS_FASTER,
    Context,
    Step,
    filesystem_bytes,
    mapping,
    used,
    used_read,
)

_STAGE_WHOLE = "The verified copy on the stick is whole; this system runs from it."


def _make_stage_default(context: Context) -> None:
    context.boot.make_default(STAGE)


def _stage_is_default(context: Context) -> bool:
    return context.boot.is_default(STAGE)


def _discard_root(context: Context) -> None:
    """The point of no return; everything that justifies it is asked once more."""
    if context.where() != STAGE or not probe.unlocked_by_itself(STAGE_MAPPING):
        raise DisagreementError(
            f"This boot does not run from the stick, unlocked by the {context.binding.TITLE}.",
            data="The card's root was not touched by this.",
            advice="'sudo crfs resume'",
        )
    part = context.root_partition()
    if part.mounts or part.children:
        raise DisagreementError(
            f"{part.path} is in use ({', '.join(part.mounts) or part.children[0].path}).",
            data="It was not touched.",
            advice=f"unmount it ('sudo umount {part.path}'), then 'sudo crfs resume'",
        )
    # Once more before it is too late: the key opens, and the copy will fit.
    context.key()
    size = blocks.size_of(mapping(STAGE_MAPPING))
    if size > part.size - luks.DATA_OFFSET:
        raise DisagreementError(
            f"The copy ({probe.human(size)}) does not fit into {part.path}.",
            data="The card's root was not touched by this.",
            advice="'sudo crfs rollback'",
        )
    context.save(destroyed=True)
    try:
        runner.run(["blkdiscard", "--force", part.path], timeout=3600, data=_STAGE_WHOLE)
    except CommandError:
        # Not every card can; `scrub` overwrites what is still there.
        context.say("the card does not discard; the old root will be overwritten")
    runner.run(["wipefs", "--all", part.path], data=_STAGE_WHOLE)


def _root_discarded(context: Context) -> bool:
    part = context.root_partition()
    return context.record.destroyed and probe.blkid(part.path, "TYPE") in ("", "crypto_LUKS")


def _format_root(context: Context) -> None:
    plan = context.plan
    part = context.root_partition()
    luks.close_mapping(ROOT_MAPPING)
    context.format(part.path, plan.uuids.root_luks, ROOT_MAPPING)
    luks.name_partition(part.path, plan.card.root_partuuid)
    luks.keep_header(part.path, probe.find_stage(plan.uuids.stage_luks).path)
    context.save(offset=0)


def _root_formatted(context: Context) -> bool:
    part = context.root_partition()
    ours = context.plan.uuids.root_luks
    return (
        probe.blkid(part.path, "UUID") == ours
        and context.formatted(part.path)
        and luks.named_partition(part.path) == context.plan.card.root_partuuid
    )


def _checkpoint(context: Context, before: int, everything: int) -> blocks.Report:
    """Show the progress, and keep in the journal how much is safely on the medium."""

    def report(position: int, done: int) -> None:
        context.report(before + done, everything)
        context.save(offset=position)

    return report


def _restore(context: Context) -> None:
    context.open_root()
    ranges = blocks.layout(mapping(STAGE_MAPPING)).used
    everything = blocks.total(ranges)
    start = context.record.offset
    before = everything - sum(end - begin for begin, end in blocks.pieces(ranges, start))

    report = _checkpoint(context, before, everything)
    blocks.copy(mapping(STAGE_MAPPING), mapping(ROOT_MAPPING), ranges, start, report)
    context.save(offset=0)


def _restored(context: Context) -> bool:
    context.open_root()
    return probe.blkid(mapping(ROOT_MAPPING), "UUID") == context.plan.uuids.stage_fs


def _compare(context: Context) -> None:
    context.open_root()
    ranges = blocks.layout(mapping(STAGE_MAPPING)).used
    everything = blocks.total(ranges)
    try:
        blocks.compare(
            mapping(STAGE_MAPPING),
            mapping(ROOT_MAPPING),
            ranges,
            lambda position, done: context.report(done, everything),
        )
    except DisagreementError:
        # The next try has to copy again, not only to compare.
        context.save(finished=tuple(one for one in context.record.finished if one != "restore"))
        raise


def _scrub(context: Context) -> None:
    """Between the blocks that were restored; what lies behind them is left to phase 3."""
    part = context.root_partition()
    shift = luks.DATA_OFFSET
    free = [
        (begin + shift, stop + shift) for begin, stop in blocks.layout(mapping(STAGE_MAPPING)).free
    ]
    report = _checkpoint(context, 0, blocks.total(free))
    overwritten = blocks.blank(part.path, free, context.record.offset, report)
    context.save(offset=0, cleared=blocks.size_of(mapping(STAGE_MAPPING)))
    context.say(f"{probe.human(overwritten)} of the old root had to be overwritten")


def _proven(context: Context) -> bool:
    """The journal's word: no other step writes where the scrub has looked."""
    return True


def _arm(context: Context) -> None:
    luks.close_mapping(ROOT_MAPPING)
    if not _root_formatted(context):
        _bring_back_header(context)
    context.boot.arm(ROOT)


def _bring_back_header(context: Context) -> None:
    plan = context.plan
    part = context.root_partition()
    stick = probe.find_stage(plan.uuids.stage_luks)
    whole = luks.bring_back_header(part.path, stick.path, context.key())
    if not whole or not _root_formatted(context):
        raise DisagreementError(
            f"The LUKS header on {part.path} is damaged, and so is its copy on the stick.",
            data=_STAGE_WHOLE,
            advice="check the card and the stick for I/O errors ('journalctl -k -b'); then "
            "'sudo crfs resume --restore-again' copies the root to the card again",
        )
    context.say("the header of cryptrfs was damaged; its copy on the stick has replaced it")


def _unused(plan: Plan) -> float:
    return max(filesystem_bytes(plan) - plan.used, 0) / READING_IS_FASTER


RESTORING = (
    Step(
        id="make-stage-default",
        title="Make the proven stick the default boot",
        why="from here on the card's root may be incomplete",
        do=_make_stage_default,
        present=_stage_is_default,
    ),
    Step(
        id="discard-root",
        title="Discard the card's plain root",
        why="nothing of it may be readable afterwards",
        do=_discard_root,
        present=_root_discarded,
        destroys="the plain root on the card",
    ),
    Step(
        id="format-root",
        title="Create cryptrfs on the card",
        why="the LUKS mapping that the sealed key opens",
        do=_format_root,
        present=_root_formatted,
    ),
    Step(
        id="restore",
        title="Copy the root back to the card",
        why="block by block, so that every byte and attribute is the same",
        do=_restore,
        present=_restored,
        bytes=used,
    ),
    Step(
        id="compare-root",
        title="Read the card back and compare it with the stick",
        why="the stick is only given up for a card that is proven whole",
        do=_compare,
        bytes=used_read,
    ),
    Step(
        id="scrub",
        title="See that nothing plain is left between the restored blocks",
        why="what the discard left readable is overwritten",
        do=_scrub,
        present=_proven,
        bytes=_unused,
    ),
)

TRYING = (
    Step(
        id="arm-root",
        title="Prepare one trial boot from cryptrfs",
        why="the encrypted root becomes the default only when it has booted",
        do=_arm,
    ),
)
