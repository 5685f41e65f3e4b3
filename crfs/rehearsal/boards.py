"""The boards: how each emulator is started as something close to a Raspberry Pi.

`q35` and `virt` are QEMU machines with an SD controller and USB 3, x86-64 and arm64; `uml` is
user-mode Linux, by far the fastest where KVM does not work, but with other device names.
"""

from __future__ import annotations

import dataclasses
import functools
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from crfs.errors import RehearsalError
from crfs.rehearsal.programs import end_process_group, program
from crfs.rehearsal.uml import uml_disk, uml_kernel

MEMORY_MIB = 1024
KVM_PROBE_S = 5.0
# Some hosts under another hypervisor cannot set the register of this feature.
KVM_CPU = "host,-arch-capabilities"


@dataclass(frozen=True)
class Wiring:
    """What a Pi is connected to when its power comes on.

    `hsm` and `firmware` are open sockets' descriptors; `monitor` is where QEMU listens for orders,
    `tpm` where swtpm does.
    On user-mode Linux, a card or stick may be the socket of a vhost-user disk instead of an image,
    and without `discard` its images are disks that cannot discard.
    """

    card: Path
    stick: Path | None
    stick_serial: str
    kernel: Path
    initramfs: Path | None
    cmdline: str
    hsm: int | None
    firmware: int
    monitor: Path
    kvm: bool
    discard: bool
    tpm: Path | None = None


@dataclass(frozen=True)
class Board:
    """One kind of virtual Pi.

    `model` is the section of config.txt that applies, `default_kernel` what that model's firmware
    boots by itself. `console`, `hsm_line` and `firmware_line` are the guest's names of its three
    serial lines, `card` and `stick` those of its disks. `slowness` is about how many times slower
    than user-mode Linux it is without KVM: time limits are multiplied by it. `tpm` is QEMU's name
    of a TPM that the board's kernel has a driver for, "" if there is none.
    """

    name: str
    arch: str
    model: str
    default_kernel: str
    console: str
    hsm_line: str
    firmware_line: str
    card: str
    stick: str
    slowness: float
    tpm: str = ""

    @property
    def tokens(self) -> list[str]:
        """What the board's firmware appends to the kernel command line."""
        # The last console is the one that user space gets; a Pi's cmdline.txt names its screen.
        tokens = [f"console={self.console}", f"zksim={self.hsm_line}"]
        tokens += [f"fwline={self.firmware_line}", "mitigations=off"]
        return [*tokens, "noreboot"] if self.name == "uml" else tokens

    def command(self, wiring: Wiring) -> list[str]:
        """The emulator and its arguments; the console is on its standard input and output."""
        if self.name == "uml":
            return uml_command(wiring)
        return qemu_command(self, wiring)


BOARDS = {
    "uml": Board(
        "uml",
        "amd64",
        "pi5",
        "kernel_2712.img",
        *("ttyS0", "ttyS1", "ttyS2"),
        *("/dev/ubda", "/dev/ubdb"),
        slowness=1.0,
    ),
    "q35": Board(
        "q35",
        "amd64",
        "pi4",
        "kernel8.img",
        *("ttyS0", "ttyS1", "ttyS2"),
        *("/dev/mmcblk0", "/dev/sda"),
        slowness=5.0,
        tpm="tpm-tis",
    ),
    "virt": Board(
        "virt",
        "arm64",
        "pi4",
        "kernel8.img",
        *("ttyAMA0", "ttyS0", "ttyS1"),
        *("/dev/mmcblk0", "/dev/sda"),
        slowness=10.0,
    ),
}


def with_virtio_disks(board: Board) -> Board:
    """The board with the names that vhost-user disks have in the guest."""
    return dataclasses.replace(board, card="/dev/vda", stick="/dev/vdb")


def find_board(name: str) -> Board:
    """The board called `name`; RehearsalError names the known ones."""
    if name not in BOARDS:
        raise RehearsalError(f"There is no board {name}; there are {', '.join(sorted(BOARDS))}.")
    return BOARDS[name]


def uml_command(wiring: Wiring) -> list[str]:
    """User-mode Linux with a card, a stick and three serial lines."""
    flags = "" if wiring.discard else "t"
    arguments = [*uml_kernel(), f"mem={MEMORY_MIB}M", uml_disk(f"ubda{flags}", wiring.card)]
    if wiring.stick is not None:
        arguments.append(uml_disk(f"ubdb{flags}", wiring.stick))
    if wiring.initramfs is not None:
        arguments.append(f"initrd={wiring.initramfs}")
    arguments += ["con=null", "ssl=null", "ssl0=fd:0,fd:1"]
    if wiring.hsm is not None:
        arguments.append(f"ssl1=fd:{wiring.hsm},fd:{wiring.hsm}")
    arguments.append(f"ssl2=fd:{wiring.firmware},fd:{wiring.firmware}")
    return [*arguments, f"uml_dir={wiring.monitor.parent}/", "umid=pi", *wiring.cmdline.split()]


def qemu_command(board: Board, wiring: Wiring) -> list[str]:
    """QEMU with an SD card, a USB stick and three serial lines."""
    if board.name == "q35":
        arguments = [program("qemu-system-x86_64", "qemu-system-x86")]
        machine = "q35,usb=off,vmport=off,sata=off,smbus=off"
        # One processor, and a plain one: what it lacks need not be emulated.
        processor = KVM_CPU if wiring.kvm else "qemu64"
        lines = ["-serial", "chardev:hsm", "-serial", "chardev:firmware"]
    else:
        arguments = [program("qemu-system-aarch64", "qemu-system-arm")]
        machine = "virt"
        processor = "cortex-a57"
        lines = ["-device", "pci-serial,chardev=hsm", "-device", "pci-serial,chardev=firmware"]
    accelerator = "kvm" if wiring.kvm else "tcg,tb-size=256"
    arguments += ["-machine", machine, "-accel", accelerator, "-cpu", processor]
    arguments += ["-smp", "1", "-m", str(MEMORY_MIB)]
    arguments += ["-nodefaults", "-display", "none", "-vga", "none", "-no-reboot"]
    arguments += ["-kernel", str(wiring.kernel), "-append", wiring.cmdline]
    if wiring.initramfs is not None:
        arguments += ["-initrd", str(wiring.initramfs)]
    arguments += ["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]
    hsm = "null,id=hsm" if wiring.hsm is None else f"socket,id=hsm,fd={wiring.hsm}"
    arguments += ["-chardev", hsm]
    arguments += ["-chardev", f"socket,id=firmware,fd={wiring.firmware}", *lines]
    arguments += ["-qmp", f"unix:{wiring.monitor},server=on,wait=off"]
    arguments += ["-device", "sdhci-pci", "-drive", drive("card", wiring.card)]
    arguments += ["-device", "sd-card,drive=card", "-device", "qemu-xhci,id=usb"]
    if wiring.stick is not None:
        stick = f"usb-storage,id=stick,drive=stickdrive,serial={wiring.stick_serial},removable=on"
        arguments += ["-drive", drive("stickdrive", wiring.stick), "-device", stick]
    if wiring.tpm is not None:
        arguments += ["-chardev", f"socket,id=swtpm,path={wiring.tpm}"]
        arguments += ["-tpmdev", "emulator,id=tpm,chardev=swtpm"]
        arguments += ["-device", f"{board.tpm},tpmdev=tpm"]
    return [
        *arguments,
        "-device",
        "virtio-rng-pci",
        "-nic",
        "user,model=virtio-net-pci,restrict=on",
    ]


def drive(name: str, image: Path) -> str:
    """QEMU's words for a raw image; what the guest has been told is written survives a kill."""
    path = str(image).replace(",", ",,")
    return f"if=none,id={name},format=raw,cache=writeback,file={path}"


@functools.cache
def kvm_works() -> bool:
    """Whether a guest really runs under KVM here: /dev/kvm that opens is no proof of it.

    A boot sector that says one letter on the serial line has to come through.
    """
    if not Path("/dev/kvm").exists() or shutil.which("qemu-system-x86_64") is None:
        return False
    with tempfile.TemporaryDirectory() as name:
        sector = Path(name) / "sector"
        said = Path(name) / "said"
        # mov dx, 0x3f8; mov al, 'K'; then say it again and again (out dx, al; jmp back)
        code = bytes.fromhex("baf803b04beeebfd")
        sector.write_bytes(code.ljust(510, b"\0") + b"\x55\xaa")
        arguments = ["qemu-system-x86_64", "-machine", "q35", "-accel", "kvm", "-cpu", KVM_CPU]
        arguments += ["-m", "64", "-nodefaults", "-display", "none", "-vga", "none"]
        arguments += ["-drive", f"format=raw,file={sector}", "-serial", f"file:{said}"]
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        until = time.monotonic() + KVM_PROBE_S
        works = False
        while not works and process.poll() is None and time.monotonic() < until:
            time.sleep(0.1)
            works = said.exists() and b"K" in said.read_bytes()
        end_process_group(process)
        return works
