"""What `crfs encrypt` says where extlinux boots: the plan, and why it stops there."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from crfs import boards, bootconfig, extlinux, probe
from crfs.checks import Machine
from crfs.errors import CrfsError, HostError, LayoutError


def show(conf: Path) -> None:
    """Print what would be written. Raises LayoutError where the file has no entry to copy."""
    old = bootconfig.decode(conf.read_bytes())
    changes = difflib.unified_diff(
        old.splitlines(), extlinux.final(old).splitlines(), "now", "afterwards", lineterm=""
    )
    print(f"Board: {boards.name(Machine().model)}")
    print(f"Root:  {probe.root_source()}")
    print(f"/boot: {'a partition of its own' if _is_apart(conf) else 'inside the root'}")
    print(f"\n{conf} in the end:\n")
    # A terminal is not to be told anything by a file.
    print("\n".join(probe.printable_line(line) for line in changes))
    print("\nThis was a dry run: nothing was changed.")


def refusal(conf: Path) -> CrfsError:
    """Why a migration cannot be carried out here."""
    if not _is_apart(conf):
        return LayoutError(
            "/boot lies inside the root filesystem, so the loader could not read it any more.",
            advice="give /boot a partition of its own; 'crfs explain boards' tells how, and what "
            "else is needed",
        )
    return HostError(
        "crfs can plan a migration of a board with extlinux, but not carry it out yet.",
        advice="'crfs explain boards' tells what is missing",
    )


def _is_apart(conf: Path) -> bool:
    """Whether the folder with the boot files is on another filesystem than the root."""
    return os.stat(conf).st_dev != os.stat("/").st_dev
