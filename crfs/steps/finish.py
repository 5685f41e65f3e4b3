"""Phase 3, from `cryptrfs`: it becomes the default, and the migration's traces go."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import IO

from crfs import blocks, luks, probe
from crfs.bootconfig import ROOT
from crfs.errors import UNCHANGED, CommandError, DisagreementError
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
_TAKE_BY = 2**30  # bytes
_SPARED = 64  # blocks that ext4 keeps for itself while all others are taken


def _make_root_default(context: Context) -> None:
    if context.where() != ROOT or not probe.unlocked_by_itself(ROOT_MAPPING):
        raise DisagreementError(
            f"This boot does not run from cryptrfs, unlocked by the {context.binding.TITLE}.",
            data=UNCHANGED,
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
        try:
            blocks.grow(ROOT_FOLDER, target)
        except OSError as problem:
            if problem.errno == errno.EBUSY or blocks.size_of(path) > target:
                raise _overtaken() from None
            raise
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
    """Write over all that is free in the filesystem, by way of files without a name.

    For one that another program (resize2fs, cloud-init) has enlarged over what was not cleared:
    which of its blocks are free can change at any moment now, so only the kernel can choose them.
    A file takes them without writing (fallocate), since a write that finds no room keeps ext4
    busy for ever where it also lacks the blocks that it reserves for itself. Those come last, and
    not all: with none at all ext4 may drop what another program has written into room that it had
    reserved. Whatever cuts this off, the kernel gives the files' blocks back.
    """
    context.say(
        "another program has enlarged the filesystem: all of its free space is overwritten, since "
        "the old root may be readable there. The disk is full until that is done"
    )
    device = os.stat(mapping(ROOT_MAPPING)).st_rdev
    name = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve().name
    reserve = Path(f"/sys/fs/ext4/{name}/reserved_clusters")
    usual = str(min(os.statvfs(ROOT_FOLDER).f_blocks // 50, 4096))  # as ext4 has it
    reserve.write_text(usual)  # a run that was killed in here may have left none
    with _nameless() as most, _nameless() as rest:
        _take(most)
        _clear_file(context, most)
        os.sync()
        reserve.write_text(str(_SPARED))
        try:
            _take(rest)
            _clear_file(context, rest)
        finally:
            reserve.write_text(usual)


def _nameless() -> IO[bytes]:
    """A file that nobody finds, and that is gone when it is closed."""
    return open(os.open(ROOT_FOLDER, os.O_TMPFILE | os.O_RDWR, 0o600), "r+b")


def _take(file: IO[bytes]) -> None:
    """Make the file as large as the filesystem's room for it, without writing it."""
    more = _TAKE_BY
    while more >= luks.BLOCK:
        try:
            os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, more)
        except OSError as problem:
            if problem.errno != errno.ENOSPC:
                raise
            more //= 2


def _clear_file(context: Context, file: IO[bytes]) -> None:
    """See that nothing of the old root is left in the blocks of a file that was never written."""
    os.fsync(file)
    shift = luks.DATA_OFFSET
    ranges = [(start + shift, end + shift) for start, end in blocks.extents(file)]

    def report(_: int, done: int) -> None:
        context.report(done, blocks.total(ranges))

    blocks.blank(context.root_partition().path, ranges, 0, report)


def _clear(context: Context, begin: int, end: int) -> None:
    """See that nothing of the old root is left between two positions of the mapping."""
    part = context.root_partition()
    rest = part.size - luks.DATA_OFFSET
    shift = luks.DATA_OFFSET

    def still_behind() -> None:
        if blocks.size_of(mapping(ROOT_MAPPING)) > begin:
            raise _overtaken()

    def report(position: int, done: int) -> None:
        context.report(position - shift, rest)

    overwritten = blocks.blank(part.path, [(begin + shift, end + shift)], 0, report, still_behind)
    still_behind()
    if overwritten:
        context.say(f"{probe.human(overwritten)} of the old root had to be overwritten")


def _overtaken() -> CommandError:
    return CommandError(
        "Another program has enlarged the filesystem meanwhile.",
        data="No file was touched; all of the free space is looked through next.",
        advice="'sudo crfs resume'",
    )


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
