"""The command line: parse, call one subcommand, turn errors into messages and exit codes."""

from __future__ import annotations

import argparse
import importlib
import sys

from crfs import __version__
from crfs.errors import CommandError, CrfsError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:  # see live.py
    from collections.abc import Sequence
    from typing import NoReturn


_BINDINGS = ("hsm6", "tpm2")  # as in model.py, which takes too long to import here


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message[:1].upper()}{message[1:]}.", advice=f"'{self.prog} --help'")


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="crfs",
        description="Encrypt the root filesystem of this Raspberry Pi; the key is bound to its "
        "Zymbit HSM6 or TPM 2.0.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"crfs {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text, allow_abbrev=False)

    encrypt = add("encrypt", "encrypt the root filesystem (two automatic reboots)")
    encrypt.add_argument("--disk", metavar="DEVICE", help="the card (default: /dev/mmcblk0)")
    encrypt.add_argument(
        "--root-part", type=int, metavar="N", help="number of the root partition (default: 2)"
    )
    encrypt.add_argument("--usb", metavar="DEVICE", help="the USB stick (default: /dev/sda)")
    encrypt.add_argument(
        "--erase-usb", action="store_true", help="the stick may be erased though it holds data"
    )
    encrypt.add_argument(
        "--yes", action="store_true", help="do not ask; does not cover --erase-usb"
    )
    encrypt.add_argument(
        "--key",
        choices=_BINDINGS,
        default=_BINDINGS[0],
        help="what the key is bound to (default: hsm6)",
    )
    encrypt.add_argument(
        "--no-recovery-key",
        action="store_true",
        help="make no recovery key: without the HSM or TPM the data is gone",
    )
    encrypt.add_argument(
        "--keep-stage", action="store_true", help="do not erase the copy on the stick at the end"
    )
    encrypt.add_argument(
        "--keep-shell", action="store_true", help="let an initramfs that fails offer a shell"
    )
    encrypt.add_argument("--dry-run", action="store_true", help="show the plan, change nothing")

    status = add("status", "show where a migration is")
    status.add_argument("--watch", action="store_true", help="keep showing it")
    status.add_argument("--json", action="store_true", help="for machines")
    resume = add("resume", "go on with a migration that stopped")
    resume.add_argument(
        "--restore-again",
        action="store_true",
        help="copy the root to the card once more, if cryptrfs does not boot",
    )
    resume.add_argument("--yes", action="store_true", help="do not ask before that")
    add("rollback", "put everything back, as long as the plain root exists")
    verify = add("verify", "check that the root is encrypted and unlocked by HSM or TPM")
    verify.add_argument("--json", action="store_true", help="for machines")
    verify.add_argument(
        "--record", action="store_true", help="take the boot files as they are now for right"
    )

    doctor = add("doctor", "look for what may be wrong with power, HSM, software and disks")
    doctor.add_argument("--json", action="store_true", help="for machines")

    hsm = add("hsm", "ask the HSM through Zymbit's client, change its address, store a public key")
    asked = hsm.add_subparsers(dest="action", required=True, metavar="ACTION")

    def add_hsm(name: str, text: str) -> argparse.ArgumentParser:
        return asked.add_parser(name, help=text, description=text, allow_abbrev=False)

    info = add_hsm("info", "model, firmware, serial number, binding, battery, perimeter, clock")
    info.add_argument("--json", action="store_true", help="for machines")
    slots = add_hsm("keys", "the curves it knows and the key slots in use")
    slots.add_argument("--json", action="store_true", help="for machines")
    address = add_hsm("set-i2c-address", "give it another address on the I2C bus")
    address.add_argument("address", metavar="ADDRESS", help="0x30 to 0x37 or 0x60 to 0x67")
    address.add_argument("--yes", action="store_true", help="do not ask")
    store = add_hsm("store-public-key", "store another module's public key")
    store.add_argument("file", metavar="FILE", help="the key's bytes")
    store.add_argument(
        "--curve", metavar="CURVE", default="secp256r1", help="the key's curve (default: secp256r1)"
    )

    recovery = add(
        "recovery-key", "add, test or remove a key that opens cryptrfs without HSM or TPM"
    )
    recovery.add_argument("action", choices=("add", "test", "remove"))

    header = add("header", "keep a copy of cryptrfs's LUKS header, or bring it back")
    header.add_argument("action", choices=("backup", "restore"))
    header.add_argument("file", metavar="FILE")
    header.add_argument("--device", metavar="DEVICE", help="partition to restore to")
    header.add_argument("--yes", action="store_true", help="do not ask")

    led = add("led", "tell what the blue LED says")
    led.add_argument(
        "description",
        nargs="*",
        metavar="DESCRIPTION",
        help='what you see, for example "fast 1s, off 1s, 5 slow" (default: list all patterns)',
    )
    led.add_argument("--json", action="store_true", help="for machines")
    explain = add("explain", "answer what no check can look up")
    explain.add_argument(
        "topic", nargs="*", metavar="TOPIC", help="a topic, or words of it (default: list them)"
    )
    explain.add_argument("--json", action="store_true", help="for machines")

    rehearse = add("rehearse", "rehearse the migration on a virtual Raspberry Pi")
    rehearse.add_argument("--image", metavar="FILE", help="rehearse on a copy of this card image")
    rehearse.add_argument("--board", choices=("q35", "virt", "uml"), help="the virtual board")
    rehearse.add_argument(
        "--key", choices=_BINDINGS, default=_BINDINGS[0], help="what the key is bound to"
    )
    rehearse.add_argument("--deb", metavar="FILE", help="package to install (default: build/)")
    rehearse.add_argument(
        "--out", metavar="FOLDER", default="build/rehearsal", help="for report.json and serial.log"
    )
    rehearse.add_argument("--keep", action="store_true", help="keep the virtual card and stick")
    commands.add_parser("run")  # for cfg_SD_crfs.service; no help text keeps it out of --help
    return parser


def _module_of(command: str) -> str:
    return f"crfs.commands.{command.replace('-', '_')}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code and never raises a traceback at a user's mistake."""
    try:
        args = build_parser().parse_args(argv)
        # Imported only now: `crfs status` and `--help` have to be quick.
        if args.command == "run":
            return int(importlib.import_module("crfs.worker").main())
        return int(importlib.import_module(_module_of(args.command)).run(args))
    except CrfsError as error:
        print(f"crfs: {error}", file=sys.stderr)
        return error.code
    except OSError as problem:
        failure = CommandError.of_system(problem, "sudo crfs status")
        print(f"crfs: {failure}", file=sys.stderr)
        return failure.code
    except KeyboardInterrupt:
        print("\ncrfs: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
