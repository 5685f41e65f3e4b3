"""Phase 3, from `cryptrfs`: it becomes the default, and the migration's traces go."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from crfs import blocks, luks, probe
from crfs.bootconfig import ROOT
from crfs.errors import CommandError, DisagreementError
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
ROOT_FOLDER = "/"
_FILL_BY = 16 * 2**20  # bytes


def _make_root_default(context: Context) -> None:
    if context.where() != ROOT or not probe.unlocked_by_itself(ROOT_MAPPING):
        raise DisagreementError(
            f"This boot does not run from cryptrfs, unlocked by the {context.binding.TITLE}.",
            data="Nothing was changed by this.",
            advice="'sudo crfs resume'",
        )
    context.boot.make_default(ROOT)


def _erase_stick(context: Context) -> None:
    """Without its header nobody can read the stick any more, whoever finds it."""
    luks.close_mapping(STAGE_MAPPING)
    if context.plan.keep_stage:
        context.say("the stick keeps its copy, which the HSM's key and the recovery key open")
        return
    sticks = probe.stages(context.plan.uuids.stage_luks)
    for stick in sticks:
        luks.erase(stick.path)
    if not sticks:
        context.say("the stick is not there or erased already; if it was pulled, erase it by hand")


def _grow(context: Context) -> None:
    """Clear a part of what lies behind the filesystem, let it grow over that, and so on.

    Nobody reads or writes behind it, and services have more room after each part.
    """
    path = mapping(ROOT_MAPPING)
    whole = blocks.device_size(path)
    end = _end_of_cleared(context)
    last = 0
    while end != last and whole - end >= _LEAST_GROWTH:
        target = min(end + _GROW_BY, whole // luks.BLOCK * luks.BLOCK)
        _clear(context, end, target)
        context.save(cleared=target)
        blocks.grow(ROOT_FOLDER, target)
        last, end = end, _end_of_cleared(context)
    # A last group that would be too small is left out.
    _clear(context, end, context.root_partition().size - luks.DATA_OFFSET)


def _end_of_cleared(context: Context) -> int:
    """Where the filesystem ends, all of it cleared."""
    end = blocks.size_of(mapping(ROOT_MAPPING))
    if end > context.record.cleared:
        _fill(context)
        context.save(cleared=end)
    return end


def _fill(context: Context) -> None:
    """Write over all that is free in the filesystem, in a file without a name.

    For one that another program (resize2fs, cloud-init) has enlarged over what was not cleared:
    which of its blocks are free can change at any moment now, so only the kernel can choose them.
    """
    context.say(
        "another program has enlarged the filesystem: all of its free space is overwritten, since "
        "the old root may be readable there. The disk is full until that is done"
    )
    free = probe.usage(ROOT_FOLDER).free
    zeros = bytes(_FILL_BY)
    done = 0
    # Blocks that ext4 keeps from everybody, for itself; from the next mount on it does so again.
    device = os.stat(mapping(ROOT_MAPPING)).st_rdev
    name = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve().name
    Path(f"/sys/fs/ext4/{name}/reserved_clusters").write_text("0")
    with open(os.open(ROOT_FOLDER, os.O_TMPFILE | os.O_WRONLY, 0o600), "wb", buffering=0) as file:
        try:
            while True:
                done += file.write(zeros)
                os.fdatasync(file)
                context.report(min(done, free), free)
        except OSError as problem:
            if problem.errno != errno.ENOSPC:
                raise
        os.fsync(file)


def _clear(context: Context, begin: int, end: int) -> None:
    """See that nothing of the old root is left between two positions of the mapping."""
    part = context.root_partition()
    rest = part.size - luks.DATA_OFFSET
    shift = luks.DATA_OFFSET

    def still_behind() -> None:
        if blocks.size_of(mapping(ROOT_MAPPING)) > begin:
            raise CommandError(
                "Another program has enlarged the filesystem meanwhile.",
                data="Nothing of it was touched.",
                advice="'sudo crfs resume'",
            )

    def report(position: int, done: int) -> None:
        context.report(position - shift, rest)

    overwritten = blocks.blank(part.path, [(begin + shift, end + shift)], 0, report, still_behind)
    still_behind()
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
