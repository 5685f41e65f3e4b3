"""Swap files of the root: not copied but made anew, so that no piece of the memory goes along."""

from __future__ import annotations

import os
from pathlib import Path

from crfs import probe, runner
from crfs.model import Plan


def of(plan: Plan) -> list[str]:
    """The plan's swap files, as far as they still are what they were."""
    return [
        path
        for path in plan.swap_files
        if os.path.isfile(path) and probe.blkid(path, "TYPE") in ("swap", "swsuspend")
    ]


def make(root: Path, plan: Plan) -> None:
    """Make them in the copy at `root`: same size and identity, owner and mode, nothing in them.

    Nobody uses them now, and the folders of the copy are left as they are. Raises CommandError.
    """
    for path in of(plan):
        facts, target = os.stat(path), root / path.lstrip("/")
        folder = target.parent.stat()
        target.unlink(missing_ok=True)
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, facts.st_size)
            os.fchown(descriptor, facts.st_uid, facts.st_gid)
        finally:
            os.close(descriptor)
        identity = [
            word
            for tag, option in (("UUID", "--uuid"), ("LABEL", "--label"))
            if (value := probe.blkid(path, tag))
            for word in (option, value)
        ]
        runner.run(["mkswap", *identity, str(target)])
        os.utime(target.parent, ns=(folder.st_atime_ns, folder.st_mtime_ns))
