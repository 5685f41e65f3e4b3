"""Fill the cheap Pi's root: the rehearsal's collection of odd files, with less bulk.

Runs as root in the workbench: `python -m crfs.rehearsal.cuts.contents ROOT`.
"""

from __future__ import annotations

from crfs.rehearsal import life

LARGE_BYTES = 6 << 20


def main() -> None:
    """Command line entry: the only argument is the mounted root."""
    life.LARGE_BYTES = LARGE_BYTES
    life.main()


if __name__ == "__main__":
    main()
