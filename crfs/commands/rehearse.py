"""`crfs rehearse`: the whole migration on a virtual Raspberry Pi, before any card is touched."""

from __future__ import annotations

import argparse
from pathlib import Path

from crfs.errors import RehearsalError
from crfs.rehearsal.rehearse import rehearse

_BUILT = Path("build")


def run(args: argparse.Namespace) -> int:
    out = Path(args.out)
    report = rehearse(
        deb=_package(args.deb),
        out=out,
        image=Path(args.image) if args.image else None,
        board=args.board,
        keep=args.keep,
        key=args.key,
    )
    if not report.ok:
        raise RehearsalError(
            f"The rehearsal ended, but not as it should: {report.differences} differences; "
            f"see {out}/report.json.",
            data="Only the virtual Pi was touched.",
            advice=f"look at {out}/serial.log",
        )
    return 0


def _package(named: str | None) -> Path:
    """The package that the virtual Pi installs: the one named, or the one built here last."""
    if named:
        return Path(named)
    built = sorted(_BUILT.glob("crfs_*_all.deb"), key=lambda path: path.stat().st_mtime)
    if not built:
        raise RehearsalError(
            f"There is no package of crfs in {_BUILT}/ for the virtual Pi to install.",
            data="Only the virtual Pi would be touched.",
            advice="'make deb' builds it; or name one: '--deb FILE'",
        )
    return built[-1]
