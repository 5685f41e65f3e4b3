"""Runs in the guest: note what every process shows in /proc, each text once, and the journal.

`python3 watcher.py FOLDER`; needs nothing but Python and journalctl. See hygiene.py.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

PAUSE_S = 0.05
JOURNAL = ("journalctl", "--boot", "--follow", "--no-tail", "--all", "--output=export")


def main() -> None:
    """Command line entry; ends with the guest."""
    folder = Path(sys.argv[1])
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    seen: set[bytes] = set()
    with (
        (folder / f"journal-{boot}").open("ab") as journal,
        (folder / f"processes-{boot}").open("ab", buffering=0) as notes,
    ):
        subprocess.Popen(JOURNAL, stdout=journal)
        while True:
            for name in ("cmdline", "environ"):
                for path in Path("/proc").glob(f"[0-9]*/{name}"):
                    try:
                        text = path.read_bytes()
                    except OSError:  # it has ended meanwhile
                        continue
                    if text not in seen:
                        seen.add(text)
                        notes.write(text + b"\n")
            time.sleep(PAUSE_S)


if __name__ == "__main__":
    main()
