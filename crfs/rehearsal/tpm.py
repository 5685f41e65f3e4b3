"""A TPM 2.0 for a virtual Pi: swtpm, in a process outside of it, with its state in a folder.

with TpmProcess(folder) as tpm, VirtualPi(folder, card, board="q35", tpm=tpm) as pi: ...
tpm.unlocks(), tpm.overheard(key)      # what went over its bus
tpm.unseal(token)                      # past the Pi, with the tools of this machine
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from crfs.dress import TPM2_SCRIPT, scripts
from crfs.errors import RehearsalError
from crfs.rehearsal.programs import end_process_group, program, start_serving
from crfs.rehearsal.uml import make_program

TPM2_UNSEAL = 0x15E  # TPM_CC_Unseal, TPM 2.0 Library Part 2
HEADER_BYTES = 10  # tag, size, and command or response code
DUMP_LEVEL = 20  # at which swtpm logs every byte of the bus

# What the kernel's /dev/tpmrm0 does for each program, and swtpm's own socket does not.
_WRAPPER = """#!/bin/sh
{tpm2} "$@"
code=$?
{tpm2} flushcontext --transient-object >/dev/null 2>&1
exit "$code"
"""


class TpmProcess:
    """One TPM. `control` is the socket that QEMU wants; the state outlives the process."""

    def __init__(self, folder: Path) -> None:
        """`folder` gets the state, the log of the bus and the sockets; its path has to be short."""
        self.state = folder / "tpm"
        self.control = folder / "tpm-control"
        self.log = folder / "tpm.log"
        self._messages = folder / "tpm-messages.log"
        self._process: subprocess.Popen[bytes] | None = None

    def power_on(self) -> None:
        """Start it, after a power cycle if it runs: it ends whenever its emulator does."""
        self.power_off()
        arguments = ["--ctrl", f"type=unixio,path={self.control}"]
        arguments += ["--log", f"file={self.log},level={DUMP_LEVEL}"]
        self._process = self._swtpm(arguments, self.control)

    def power_off(self) -> None:
        """End the process; the state stays."""
        if self._process is not None:
            end_process_group(self._process)
            self._process = None

    def __enter__(self) -> TpmProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.power_off()

    def clear(self) -> None:
        """Become another TPM: what this one sealed cannot be opened any more."""
        self.power_off()
        for path in self.state.glob("tpm2-00.*"):
            path.unlink()

    def unlocks(self) -> int:
        """How often it opened a sealed key for the Pi."""
        bus = self._bus()
        return sum(
            code_of(asked) == TPM2_UNSEAL and code_of(answered) == 0
            for asked, answered in itertools.pairwise(bus)
        )

    def overheard(self, secret: bytes) -> bool:
        """Whether somebody who listens on the Pi's bus to the TPM has heard these bytes."""
        return any(secret in message for message in self._bus())

    def _bus(self) -> list[bytes]:
        return parse_log(self.log.read_text()) if self.log.exists() else []

    # --- past the Pi --------------------------------------------------------------------------

    @contextlib.contextmanager
    def on_this_machine(self, log: Path | None = None) -> Iterator[dict[str, str]]:
        """Environment in which tpm2-tools of this machine reach it; the Pi has to be off.

        What goes over the bus meanwhile is added to `log`, which is the Pi's if none is named.
        """
        self.power_off()
        tpm2 = program("tpm2", "tpm2-tools")
        tools = self.state.parent / "tpm-tools"
        tools.mkdir(exist_ok=True)
        make_program(tools / "tpm2", _WRAPPER.format(tpm2=tpm2))
        server = self.state.parent / "tpm-server"
        control = server.with_name(f"{server.name}.ctrl")  # where the TCTI expects it
        arguments = ["--server", f"type=unixio,path={server}"]
        arguments += ["--ctrl", f"type=unixio,path={control}"]
        arguments += ["--flags", "not-need-init,startup-clear"]
        arguments += ["--log", f"file={log or self.log},level={DUMP_LEVEL}"]
        process = self._swtpm(arguments, server, control)
        try:
            yield {
                "PATH": f"{tools}:{os.environ.get('PATH', os.defpath)}",
                "TPM2TOOLS_TCTI": f"swtpm:path={server}",
                "XDG_RUNTIME_DIR": str(tools),
            }
        finally:
            end_process_group(process)

    def unseal(self, token: bytes) -> bytes:
        """Open a sealed key on this machine. For looking at results only."""
        with self.on_this_machine(self._messages) as environment:
            done = subprocess.run(
                ["sh", str(scripts() / TPM2_SCRIPT), "unseal"],
                input=token,
                capture_output=True,
                check=False,
                env=environment,
            )
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace")
            raise RehearsalError(f"The virtual TPM does not open the sealed key:\n{said}")
        return done.stdout

    def _swtpm(self, arguments: list[str], *sockets: Path) -> subprocess.Popen[bytes]:
        self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        command = [program("swtpm", "swtpm"), "socket", "--tpm2"]
        command += ["--tpmstate", f"dir={self.state}", *arguments]
        return start_serving(command, self._messages, sockets)


def parse_log(text: str) -> list[bytes]:
    """The messages on the bus, to the TPM and from it in turns, of swtpm's log."""
    dumps = re.findall(r"SWTPM_IO_(?:Read|Write): length \d+\s*\n((?: (?:[0-9A-F]{2} )+\n)+)", text)
    return [bytes.fromhex(dump) for dump in dumps]


def code_of(message: bytes) -> int:
    """The command code of a message to the TPM, the response code of one from it."""
    return int.from_bytes(message[6:HEADER_BYTES], "big")
