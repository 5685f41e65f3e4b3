"""A virtual Pi: power, console, stick, firmware, HSM line, and what it did in each boot.

    with HsmProcess(folder) as hsm, VirtualPi(folder, card, board="uml", hsm=hsm) as pi:
        pi.power_on()
        pi.login()
        code, text = pi.run("uname -a")
        pi.run("sudo systemctl reboot", wait=False)
        pi.wait_exit()          # a reboot ends the emulator, as the firmware takes over
        pi.power_on()           # and starts it anew from what is on the FAT partition now

Time limits are in seconds of the fastest board; they are multiplied by the board's slowness.
Whatever runs out of time raises RehearsalError; leaving the `with` block ends the emulator.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from crfs.errors import RehearsalError
from crfs.rehearsal import firmware
from crfs.rehearsal.boards import Wiring, find_board, kvm_works, with_virtio_disks
from crfs.rehearsal.console import Console, ConsoleClosed, ConsoleTimeout
from crfs.rehearsal.module import HsmProcess
from crfs.rehearsal.monitor import Monitor
from crfs.rehearsal.programs import end_process_group
from crfs.rehearsal.tpm import TpmProcess

USER = "pi"
PASSWORD = "raspberry"  # noqa: S105 - the well-known one, on a Pi that is nowhere
BOOT_S = 150.0
COMMAND_S = 120.0
EXIT_S = 120.0


@dataclass
class Boot:
    """One boot: what the firmware chose, what the guest says its root is, and how it ended.

    `ended` is "running", "reboot", "poweroff", "cut" (power) or "crash" (anything else);
    `argument` is that of an orderly reboot, "0 tryboot" for instance. `powered_at` is when the
    power came on, by time.monotonic(); `login_s` how many seconds later the login prompt was met.
    """

    number: int
    config: str
    trial: bool
    cmdline: str
    root: str = ""
    ended: str = "running"
    argument: str = ""
    powered_at: float = field(default_factory=time.monotonic)
    login_s: float = 0.0

    @property
    def device(self) -> str:
        """The root device; where an overlay hides it, the one that the command line names."""
        if self.root and self.root != "overlay":
            return self.root
        named = re.findall(r"(?:^| )root=(\S+)", self.cmdline)
        return str(named[-1]) if named else ""


class VirtualPi:
    """One Pi with its card; a stick and an HSM if wanted."""

    def __init__(
        self,
        folder: Path,
        card: Path,
        *,
        board: str = "uml",
        stick: Path | None = None,
        hsm: HsmProcess | None = None,
        tpm: TpmProcess | None = None,
        tryboot: bool = True,
        discard: bool = True,
        card_id: str = "card-1",
        board_id: str = "board-1",
        served: Mapping[Path, Path] | None = None,
        on_line: Callable[[str], None] = lambda line: None,
    ) -> None:
        """A Pi without power. `folder` gets the serial log (`serial.log`, all boots).

        `tryboot` false is an old firmware without one-shot boot; `discard` false (on `uml`) are
        disks that cannot discard. `card_id` and `board_id` are what an HSM in production mode
        binds to. `tpm` is for boards that have one. `served` (on `uml`) has the sockets of
        vhost-user processes that serve card and stick in place of the emulator, by image.
        `on_line` is called with each line on the console, in a thread of its own.
        """
        self.board = find_board(board)
        self._served = served or {}
        if served:
            self.board = with_virtio_disks(self.board)
        self.card = card
        self.stick = stick
        self.stick_serial = "CRFS0001"
        self.hsm = hsm
        if tpm is not None and not self.board.tpm:
            raise RehearsalError(f"The board {board} has no TPM; q35 has one.")
        self.tpm = tpm
        self.tryboot = tryboot
        self.discard = discard
        self.card_id = card_id
        self.board_id = board_id
        self.kvm = self.board.name == "q35" and kvm_works()
        self.slowness = 1.5 if self.kvm else self.board.slowness
        self.boots: list[Boot] = []
        self.acknowledged = 0
        # When the application said that it had written a record, by time.monotonic().
        self.record_times: list[float] = []
        self.log = folder / "serial.log"
        folder.mkdir(parents=True, exist_ok=True)
        self._on_line = on_line
        # Paths of sockets have to be short: not in `folder`.
        self._work = Path(tempfile.mkdtemp(prefix="crfs-pi-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._console: Console | None = None
        self._listener: threading.Thread | None = None
        self._trial_next = False
        self._commands = 0

    def __enter__(self) -> VirtualPi:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cut the power if it is on, and clean up."""
        if self._process is not None:
            self.power_cut()
        shutil.rmtree(self._work, ignore_errors=True)

    # --- power --------------------------------------------------------------------------------

    @property
    def is_on(self) -> bool:
        """Whether the emulator runs."""
        return self._process is not None and self._process.poll() is None

    def power_on(self) -> Boot:
        """Let the firmware read the card and start what it finds; returns at once."""
        if self._process is not None:
            raise RehearsalError("The power is on already.")
        trial = self._trial_next and self.tryboot
        self._trial_next = False
        fat = firmware.BootPartition(self.card)
        files = firmware.choose(fat, self.board.model, self.board.default_kernel, trial=trial)
        kernel, initramfs = firmware.extract(fat, files, self._work)
        cmdline = firmware.final_cmdline(files, self.board.console, self.board.tokens)
        boot = Boot(len(self.boots) + 1, files.config, files.trial, cmdline)
        self.boots.append(boot)
        with self.log.open("a") as log:
            log.write(f"\n==== boot {boot.number}: {boot.config} ====\n{cmdline}\n")
        console, console_far = socket.socketpair()
        line, line_far = socket.socketpair()
        wires = [line_far]
        if self.tpm is not None:
            self.tpm.power_on()
        hsm = self._connect_hsm()
        if hsm is not None:
            wires.append(hsm)
        wiring = Wiring(
            card=self._served.get(self.card, self.card.resolve()),
            stick=self._served.get(self.stick, self.stick.resolve()) if self.stick else None,
            stick_serial=self.stick_serial,
            kernel=kernel,
            initramfs=initramfs,
            cmdline=cmdline,
            hsm=hsm.fileno() if hsm else None,
            firmware=line_far.fileno(),
            monitor=self._work / "monitor",
            kvm=self.kvm,
            discard=self.discard,
            tpm=self.tpm.control if self.tpm else None,
        )
        with (self._work / "emulator.log").open("ab") as errors:
            self._process = subprocess.Popen(
                self.board.command(wiring),
                stdin=console_far.fileno(),
                stdout=console_far.fileno(),
                stderr=errors,
                pass_fds=[wire.fileno() for wire in wires],
                start_new_session=True,
            )
        for wire in [console_far, *wires]:
            wire.close()
        self._console = Console(console, self.log, self._on_line)
        self._listener = threading.Thread(target=self._listen, args=(line, boot), daemon=True)
        self._listener.start()
        return boot

    def power_cut(self) -> None:
        """Pull the plug."""
        if self._process is None:
            return
        ended_by_itself = self._process.poll() is not None
        end_process_group(self._process)
        self._after_end()
        if not ended_by_itself:
            self.boots[-1].ended = "cut"
            self._trial_next = False

    def wait_exit(self, timeout: float = EXIT_S) -> Boot:
        """Wait until the Pi has rebooted, powered off or crashed; the boot that ended so.

        If it does not in `timeout` seconds, its power is cut and RehearsalError raised.
        """
        if self._process is None:
            raise RehearsalError("The power is off.")
        try:
            self._process.wait(timeout * self.slowness)
        except subprocess.TimeoutExpired:
            self.power_cut()
            raise RehearsalError(
                f"The Pi did not end within {timeout * self.slowness:.0f} s; see {self.log}."
            ) from None
        end_process_group(self._process)
        self._after_end()
        return self.boots[-1]

    def _after_end(self) -> None:
        """Gather what the emulator that has just ended left in its lines."""
        self._process = None
        if self._listener is not None:
            self._listener.join(timeout=5)
        if self._console is not None:
            self._console.close()
            self._console = None
        boot = self.boots[-1]
        if boot.ended == "running":
            boot.ended = "crash"
        self._trial_next = boot.ended == "reboot" and boot.argument == firmware.TRYBOOT_ARGUMENT

    # --- console ------------------------------------------------------------------------------

    @property
    def console(self) -> Console:
        """The console of the running boot."""
        if self._console is None:
            raise RehearsalError("The power is off.")
        return self._console

    def login(self, timeout: float = BOOT_S) -> None:
        """Wait for the login prompt, log in as `pi`, and leave a shell that `run` can use."""
        limit = timeout * self.slowness
        self.console.expect(r"login: ?$", limit)
        self.boots[-1].login_s = time.monotonic() - self.boots[-1].powered_at
        self.console.send(f"{USER}\n")
        self.console.expect(r"Password: ?$", limit)
        self.console.send(f"{PASSWORD}\n")
        self.console.expect(r"[$#] ?$", limit)
        # A plain shell that echoes and prompts nothing; the kernel and systemd keep quiet, too.
        plain = "PS1= PS2= TERM=dumb SYSTEMD_COLORS=0 SYSTEMD_PAGER="
        self.console.send(f"stty -echo; exec env {plain} sh -s\n")
        self.run("sudo bash -c 'dmesg -n 1; kill -s RTMIN+21 1'", timeout=timeout)

    def run(
        self, command: str, timeout: float = COMMAND_S, *, wait: bool = True
    ) -> tuple[int, str]:
        """Run a shell command as `pi`; its exit code and its output (both streams).

        Without `wait` it is only typed: for a command that ends the Pi. Raises RehearsalError if
        the Pi ends meanwhile or the command is not done in time; it then goes on running.
        """
        if not wait:
            self.console.send(command + "\n")
            return 0, ""
        self._commands += 1
        mark = f"{len(self.boots)}-{self._commands}"
        # The quotes keep an echo of the line from looking like the marks themselves.
        self.console.send(
            f'echo "@<""{mark}"; {{ {command}\n}} </dev/null 2>&1; echo "@>""{mark}:$?:"\n'
        )
        limit = timeout * self.slowness
        try:
            self.console.expect(rf"@<{mark}\n", limit)
            match = self.console.expect(rf"(?s)\A(.*?)@>{mark}:(\d+):", limit)
        except ConsoleTimeout as error:
            raise ConsoleTimeout(f"Not done in time: {command}\n{error.what}") from None
        return int(match[2]), match[1].removesuffix("\n")

    def check(self, command: str, timeout: float = COMMAND_S) -> str:
        """Run a command that has to succeed; its output."""
        code, output = self.run(command, timeout)
        if code != 0:
            raise RehearsalError(f"On the Pi, `{command}` failed with code {code}:\n{output}")
        return output

    def shutdown(self, timeout: float = EXIT_S) -> Boot:
        """Power off in an orderly way, from the logged-in shell."""
        return self._leave("sudo systemctl poweroff", timeout)

    def reboot(self, argument: str = "", timeout: float = EXIT_S) -> Boot:
        """Reboot from the logged-in shell; the Pi is off then, until `power_on`."""
        extra = f" --reboot-argument='{argument}'" if argument else ""
        return self._leave(f"sudo systemctl reboot{extra}", timeout)

    def _leave(self, command: str, timeout: float) -> Boot:
        self.run(command, wait=False)
        return self.wait_exit(timeout)

    # --- stick --------------------------------------------------------------------------------

    def set_stick(self, stick: Path | None, serial: str = "CRFS0001") -> None:
        """Plug in another stick (None: none at all), also while the Pi runs (not on `uml`)."""
        if self.is_on:
            if self.board.name == "uml":
                raise RehearsalError("User-mode Linux cannot change its stick while it runs.")
            with Monitor(self._work / "monitor") as monitor:
                if self.stick is not None:
                    monitor.unplug_stick()
                if stick is not None:
                    monitor.plug_stick(stick.resolve(), serial)
        self.stick = stick
        self.stick_serial = serial

    # --- lines --------------------------------------------------------------------------------

    def _connect_hsm(self) -> socket.socket | None:
        """A connection to the module, which is told what it is plugged into; None: no module."""
        if self.hsm is None:
            return None
        self.hsm.set(card=self.card_id, board=self.board_id)
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self.hsm.line))
        return connection

    def _listen(self, line: socket.socket, boot: Boot) -> None:
        """Read what the guest tells the firmware: its root, its records, its end."""
        with contextlib.suppress(OSError), line, line.makefile(errors="replace") as lines:
            for text in lines:
                if match := re.fullmatch(r"R (\d+)\s*", text):
                    self.acknowledged = max(self.acknowledged, int(match[1]))
                    self.record_times.append(time.monotonic())
                elif match := re.fullmatch(r"ROOT (\S+)\s*", text):
                    boot.root = match[1]
                elif match := re.fullmatch(r"END (reboot|poweroff|halt|kexec) ?(.*?)\s*", text):
                    boot.ended, boot.argument = match[1], match[2]


__all__ = ["Boot", "ConsoleClosed", "ConsoleTimeout", "VirtualPi"]
