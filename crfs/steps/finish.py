"""Phase 3, from `cryptrfs`: it becomes the default, and the migration's traces go."""

from __future__ import annotations

import os

from crfs import blocks, keys, luks, probe, runner
from crfs.bootfiles import ROOT
from crfs.errors import DisagreementError, StickError
from crfs.model import ROOT_MAPPING, STAGE_MAPPING
from crfs.steps.base import Context, Step, filesystem_bytes, mapping


def _make_root_default(context: Context) -> None:
    if context.where() != ROOT or not probe.unlocked_by_hsm(ROOT_MAPPING):
        raise DisagreementError(
            "This boot does not run from cryptrfs, unlocked by the HSM.",
            data="Stick and card are as phase 2 left them.",
            advice="'sudo crfs resume'",
        )
    context.boot.make_default(ROOT)


def _erase_stick(context: Context) -> None:
    """Without its header nobody can read the stick any more, whoever finds it."""
    luks.close_mapping(STAGE_MAPPING)
    try:
        stick = probe.find_stage(context.plan.uuids.stage_luks)
    except StickError:
        context.say("the stick is not there or erased already; if it was pulled, erase it by hand")
        return
    luks.erase(stick.path)


def _grow(context: Context) -> None:
    path = mapping(ROOT_MAPPING)
    if blocks.device_size(path) - filesystem_bytes(context.plan) < 2**20:
        return
    times = os.stat("/")
    # On the mounted filesystem this is journaled by the kernel, so that a cut cannot harm it.
    runner.run(["resize2fs", path], timeout=3600)
    # resize2fs tries a file in the mount point to see whether it is writable.
    os.utime("/", ns=(times.st_atime_ns, times.st_mtime_ns))


def _finish_boot(context: Context) -> None:
    context.boot.make_final()


def _start_services(context: Context) -> None:
    keys.give_back_hsm(context.plan.services)


FINISHING = (
    Step(
        id="make-root-default",
        title="Make cryptrfs the default boot",
        why="it has booted, unlocked by the HSM",
        do=_make_root_default,
    ),
    Step(
        id="grow",
        title="Let the filesystem fill the mapping",
        why="it may have been made smaller to fit the stick",
        do=_grow,
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
        id="start-services",
        title="Start Zymbit's services again",
        why="they were stopped while the migration used the HSM",
        do=_start_services,
    ),
)
