"""`crfs header`: a copy of cryptrfs's LUKS header, for the day the one on the card is damaged."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from crfs import live, luks, probe
from crfs.commands.common import confirm, require_root, root_device
from crfs.errors import CommandError, LayoutError, UsageError
from crfs.model import ROOT_MAPPING
from crfs.probe import Block

_UNTOUCHED = "No header was changed."
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def run(args: argparse.Namespace) -> int:
    require_root(f"header {args.action} {args.file}")
    file = Path(args.file).absolute()
    if args.action == "backup":
        _back_up(file)
    else:
        _restore(file, args.device or root_device(), ask=not args.yes)
    return 0


def _back_up(file: Path) -> None:
    if file.exists():
        raise UsageError(f"{file} exists.", advice="name a file that does not exist yet")
    if not file.parent.is_dir():
        raise UsageError(f"There is no folder {file.parent}.", advice="name a file in a folder")
    luks.back_up_header(root_device(), file)
    print(
        f"The header of cryptrfs is in {file}.\n"
        "Keep it elsewhere than on this card. It opens nothing without HSM, TPM or a recovery\n"
        "key; but a recovery key that you remove later still opens what this header is restored\n"
        "to."
    )


def _restore(file: Path, device: str, *, ask: bool) -> None:
    try:
        partuuid = luks.named_partition(str(file))
    except CommandError:
        raise UsageError(
            f"{file} is no backup of a LUKS2 header.",
            data=_UNTOUCHED,
            advice="name a file that 'sudo crfs header backup FILE' has made",
        ) from None
    found = [part for disk in probe.disks() for part in disk.children if part.path == device]
    if not found:
        raise LayoutError(
            f"{device} is no partition of a disk here.",
            data=_UNTOUCHED,
            advice="name the card's root partition, for example '--device /dev/mmcblk0p2'",
        )
    if not partuuid or partuuid != found[0].partuuid:
        raise LayoutError(
            f"The header in {file} belongs to another partition ({partuuid or 'unknown'}); "
            f"{device} is {found[0].partuuid or 'unknown'}.",
            data=_UNTOUCHED,
            advice="take the backup that was made of this card",
        )
    if found[0].mounts:
        raise LayoutError(
            f"{device} is mounted at {', '.join(found[0].mounts)}: it is no damaged cryptrfs.",
            data=_UNTOUCHED,
            advice="name the partition that the header was taken from ('lsblk' shows it)",
        )
    _require_same_encryption(file, found[0])
    if ask:
        confirm(f"Overwrite the LUKS header of {found[0].describe()} with {file}?")
    luks.restore_header(device, file)
    print(f"The header on {device} is the one of {file} again.")


def _require_same_encryption(file: Path, part: Block) -> None:
    """A PARTUUID is not enough: a card's twin has the same, and so has a card encrypted anew.

    Each encryption has a key of its own, which lies in the header alone: overwritten by another
    one's header it is lost for good. So the file must have the LUKS UUID that is known of the
    partition. None is known where the header is gone and nothing is open. Raises LayoutError.
    """
    backup = probe.blkid(str(file), "UUID")
    for known, how in _known(part):
        if known != backup:
            raise LayoutError(
                f"The header in {file} is of another encryption (LUKS {backup or 'unknown'}) than "
                f"{part.path} ({how}: LUKS {known}).",
                data=f"{_UNTOUCHED} With that one, no key would open what is on {part.path} ever "
                "again.",
                advice="take a backup that was made of this card since it was encrypted; if that "
                "header works, 'sudo crfs header backup FILE' makes a new one",
            )


def _known(part: Block) -> list[tuple[str, str]]:
    """The LUKS UUIDs that are known of a partition, each with where from.

    Of one that is open the kernel knows; its header may be another one's by now.
    """
    known = []
    if not part.children and probe.blkid(part.path, "TYPE") == "crypto_LUKS":
        known.append((probe.blkid(part.path, "UUID"), "by its present header"))
    for child in part.children:
        name = Path(child.path).name
        known.append((probe.luks_of_mapping(name), f"open as {name}"))
        if name == ROOT_MAPPING:
            uuids = live.read_report().get("uuids")
            told = uuids.get("root_luks") if isinstance(uuids, dict) else None
            known.append((str(told or ""), "by the report of its encryption"))
    # A damaged header may tell anything; what is no UUID forbids nothing.
    return [(uuid, how) for uuid, how in known if _UUID.fullmatch(uuid)]
