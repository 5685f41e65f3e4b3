"""The virtual TPM: its bus as swtpm logs it, and the boards that can have one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from crfs.errors import RehearsalError
from crfs.rehearsal.boards import BOARDS, Wiring
from crfs.rehearsal.pi import VirtualPi
from crfs.rehearsal.tpm import TPM2_UNSEAL, TpmProcess, code_of, parse_log

ASKED = bytes.fromhex("8002 00000014 0000015e 80000001 5ec2e7ab01 02")
OPENED = bytes.fromhex("8002 00000012 00000000 00000004 00026b31")
REFUSED = bytes.fromhex("8001 0000000a 0000018b")
WIRING = Wiring(
    card=Path("card.img"),
    stick=None,
    stick_serial="",
    kernel=Path("kernel"),
    initramfs=None,
    cmdline="",
    hsm=None,
    firmware=3,
    monitor=Path("monitor"),
    kvm=False,
    discard=True,
)


def logged(direction: str, message: bytes) -> str:
    rows = [message[at : at + 16] for at in range(0, len(message), 16)]
    dump = "".join(f" {row.hex(' ').upper()} \n" for row in rows)
    return f" SWTPM_IO_{direction}: length {len(message)}\n{dump}"


def test_the_bus_is_read_from_the_log(tmp_path: Path) -> None:
    tpm = TpmProcess(tmp_path)
    assert (tpm.unlocks(), tpm.overheard(b"k1")) == (0, False), "it was never on"
    text = " Ctrl Cmd: length 4\n 00 00 00 01 \n"
    for answer in (REFUSED, OPENED, OPENED):
        text += logged("Read", ASKED) + logged("Write", answer) + "Data client disconnected\n"
    tpm.log.write_text(text)
    assert parse_log(text) == [ASKED, REFUSED, ASKED, OPENED, ASKED, OPENED]
    assert code_of(ASKED) == TPM2_UNSEAL
    assert tpm.unlocks() == 2
    assert tpm.overheard(b"k1")
    assert not tpm.overheard(b"k2")


def test_a_tpm_is_wired_to_its_board(tmp_path: Path) -> None:
    board = BOARDS["q35"]
    assert "-tpmdev" not in board.command(WIRING)
    words = " ".join(board.command(dataclasses.replace(WIRING, tpm=Path("/run/tpm"))))
    assert "-chardev socket,id=swtpm,path=/run/tpm -tpmdev emulator,id=tpm,chardev=swtpm" in words
    assert "-device tpm-tis,tpmdev=tpm" in words
    for name in ("uml", "virt"):
        with pytest.raises(RehearsalError, match=f"{name} has no TPM"):
            VirtualPi(tmp_path, tmp_path / "card.img", board=name, tpm=TpmProcess(tmp_path))
