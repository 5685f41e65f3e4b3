"""Runs in the guest: note what every process shows in /proc, each text once, and the journal.

`python3 watcher.py FOLDER`; needs nothing but Python and journalctl. See hygiene.py. It has to be
quick, so that it sees commands that take a twentieth of a second, and leaves the guest its time.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

PAUSE_S = 0.05
JOURNAL = ("journalctl", "--boot", "--follow", "--no-tail", "--all", "--output=export")


def main() -> None:
    """Command line entry; ends with the guest."""
    folder = sys.argv[1]
    with open("/proc/sys/kernel/random/boot_id") as file:
        boot = file.read().strip()
    with (
        open(f"{folder}/journal-{boot}", "ab") as journal,
        open(f"{folder}/processes-{boot}", "ab", buffering=0) as notes,
    ):
        subprocess.Popen(JOURNAL, stdout=journal)
        # The empty one is what threads of the kernel's show; they have no environment either.
        seen = {b""}
        while True:
            for process in filter(str.isdigit, os.listdir("/proc")):
                shown = [read(f"/proc/{process}/cmdline")]
                if shown[0]:
                    shown.append(read(f"/proc/{process}/environ"))
                for text in {*shown} - seen:
                    seen.add(text)
                    notes.write(text + b"\n")
            time.sleep(PAUSE_S)


def read(path: str) -> bytes:
    """At most 64 KiB of a file, nothing if it is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            return os.read(descriptor, 1 << 16)
        finally:
            os.close(descriptor)
    except OSError:
        return b""


if __name__ == "__main__":
    main()
