"""A healthy Pi as data, and a whole fake one on which the real command line runs."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from crfs import bootrecord, cli, consent, dress, keys, live, model, probe, runner, tpm2
from crfs.checks import machine
from crfs.errors import CommandError, JournalError
from crfs.journal import Journal
from crfs.model import HSM6, Boot, Card, Cipher, Plan, Record, Stick, Uuids
from crfs.probe import Mount, Swap

GB = 10**9
BOOT_ID = "11111111-aaaa-4bbb-8ccc-222222222222"
OTHER_BOOT_ID = "99999999-aaaa-4bbb-8ccc-222222222222"
CMDLINE = "console=tty1 root=PARTUUID=cafe0001-02 rootfstype=ext4 rootwait quiet"
CONFIG = (
    b"# For more options see the documentation\r\n"
    b"dtparam=i2c_arm=on\ndtparam=audio=on\n[pi4]\narm_boost=1"
)

UUIDS = Uuids(
    stage_luks="aaaaaaaa-0000-4000-8000-000000000001",
    stage_fs="aaaaaaaa-0000-4000-8000-000000000002",
    root_luks="aaaaaaaa-0000-4000-8000-000000000003",
)
CARD = Card(
    path="/dev/mmcblk0",
    table_id="cafe0001",
    serial="0x00c0ffee",
    model="SD32G",
    size=32 * GB,
    root_partuuid="cafe0001-02",
    root_number=2,
    root_size=31 * GB,
    boot_partuuid="cafe0001-01",
)


def plan(
    mount: str = "/boot/firmware",
    *,
    tryboot: bool = True,
    recovery_key: bool = False,
    binding: str = HSM6,
) -> Plan:
    return Plan(
        run_id="aaaaaaaa-0000-4000-8000-000000000000",
        binding=binding,
        card=CARD,
        stick=Stick("/dev/sda", "USB123", "Ultra", 64 * GB),
        uuids=UUIDS,
        cipher=Cipher("aes-xts-plain64", 512),
        boot=Boot(mount, tryboot, "6.1.0-rpi", "cmdline.txt"),
        used=4 * GB,
        inodes=2000000,
        files=100000,
        label="rootfs",
        swap_files=("/var/swap",),
        recovery_key=recovery_key,
        keep_stage=False,
        keep_shell=False,
        services=("zkifc.service", "zkbootrtc.service"),
        kept_units=("NetworkManager.service", "ssh.service"),
    )


def record(state: str = "staging", mount: str = "/boot/firmware", **changes: Any) -> Record:
    changes.setdefault("boot_id", BOOT_ID)
    return Record(plan=plan(mount), state=state, **changes)


def row(path: str, kind: str, size: int, **facts: Any) -> dict[str, Any]:
    """One row as lsblk writes it; what is not said is null there."""
    names = ("fstype", "label", "uuid", "partuuid", "ptuuid", "model", "serial", "tran")
    return {
        "name": path.rpartition("/")[2],
        "path": path,
        "type": kind,
        "size": size,
        "ro": False,
        "rm": False,
        "mountpoints": [None],
        **dict.fromkeys(names),
        **facts,
    }


def card_row(boot: str) -> dict[str, Any]:
    first = row(
        "/dev/mmcblk0p1",
        "part",
        GB // 2,
        fstype="vfat",
        label="bootfs",
        ptuuid="cafe0001",
        partuuid="cafe0001-01",
        mountpoints=[boot],
    )
    second = row(
        "/dev/mmcblk0p2",
        "part",
        31 * GB,
        fstype="ext4",
        label="rootfs",
        ptuuid="cafe0001",
        partuuid="cafe0001-02",
        mountpoints=["/"],
    )
    return row(
        "/dev/mmcblk0",
        "disk",
        32 * GB,
        ptuuid="cafe0001",
        serial="0x00c0ffee",
        model="SD32G",
        children=[first, second],
    )


def stick_row(path: str = "/dev/sda", **facts: Any) -> dict[str, Any]:
    known = {"rm": True, "tran": "usb", "model": "Ultra", "serial": "USB123", **facts}
    return row(path, "disk", known.pop("size", 64 * GB), **known)


def healthy_hsm() -> dict[str, Any]:
    """What a module in development mode tells."""
    return {
        "installed": True,
        "said": "",
        "model": "HSM6",
        "firmware": "01.01",
        "serial": "0001abcd",
        "locked": False,
        "bound": False,
        "perimeter": [0, 0],
        "battery": 3.0,
        "temperature": 41.5,
        "rtc_drift": 0.25,
        "clock_ahead": 0,
        "seals": "",
    }


# What a Raspberry Pi 4 has below /, as far as anybody looks at it.
PI_4 = {
    "proc/device-tree/model": b"Raspberry Pi 4 Model B Rev 1.4\0",
    "sys/class/hwmon/hwmon0/name": b"cpu_thermal\n",
    "sys/class/hwmon/hwmon1/name": b"rpi_volt\n",
    "sys/class/hwmon/hwmon1/in0_lcrit_alarm": b"0\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": b"ondemand\n",
    "dev/i2c-1": b"",
    "bin/sh": b"\x7fELF\x02\x01\x01" + bytes(57),
    "etc/os-release": b'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_ID="12"\nID=debian\n',
    "usr/share/initramfs-tools/hooks/cryptroot": b"",
    "lib/modules/6.1.0-rpi/modules.dep": b"",
    "lib/modules/6.12.0-other/modules.dep": b"",
    "run/systemd/timesync/synchronized": b"",
    "var/lib/apt/lists/deb.debian.org_debian_dists_bookworm_main_binary-arm64_Packages": b"",
    "var/lib/zymbit/zkenv.conf": b"ZK_GPIO_WAKE_PIN=4\n",
    "var/lib/zymbit/host_salt.bin": b"salt",
}


def lay_out(root: Path, tree: dict[str, bytes]) -> None:
    """Write the files of a tree below a folder."""
    for name, content in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def sealed_by_tpm(key: bytes) -> dict[str, Any]:
    """The token that the fake Pi's TPM makes of a key."""
    return {
        "type": tpm2.TOKEN,
        "keyslots": ["0"],
        "name": "a-name",
        "public": "a-public",
        "private": key.hex(),
    }


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"(folder)"
        for path in sorted(folder.rglob("*"))
    }


@dataclass
class Result:
    code: int
    out: str
    err: str


@dataclass
class FakePi:
    """A Pi whose disks, services and HSM are data; commands are recorded, none is started."""

    folder: Path
    capsys: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch
    boot: Path
    rows: list[dict[str, Any]]
    mounts: dict[str, Mount]
    root: str = "/dev/mmcblk0p2"
    active: set[str] = field(default_factory=lambda: {"zkifc.service", "multi-user.target"})
    enabled: set[str] = field(default_factory=lambda: {"ssh.service", model.UNIT})
    missing: set[str] = field(default_factory=lambda: {"vcgencmd"})
    superblocks: dict[tuple[str, str], str] = field(default_factory=dict)
    mappings: dict[str, str] = field(default_factory=dict)  # name: LUKS UUID
    hsm_answers: bool = True
    tpm_answers: bool = True
    listing: str = ""  # of the initramfs
    tokens: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # of LUKS headers
    unlocked: set[str] = field(default_factory=set)
    where: str = "plain"
    unit_works: bool = False  # whether starting the unit runs the worker
    failed: bool = False  # how the unit's last start ended
    boot_id: str = BOOT_ID
    boot_free: int = 300 * 10**6
    cmdline: str = CMDLINE
    swaps: list[Swap] = field(default_factory=list)
    effects: list[list[str]] = field(default_factory=list)
    on_run: Callable[[list[str]], None] = lambda argv: None
    kernel_log: str = "Booting Linux on physical CPU 0x0000000000 [0x410fd083]\n"
    stopping: list[tuple[str, ...]] = field(default_factory=list)  # at each look
    pending: int = 0  # packages that wait for an update
    hsm: dict[str, Any] = field(default_factory=healthy_hsm)
    gpg: str = ""  # what gpg says of the repository's key
    throttled: str = "throttled=0x0"  # what vcgencmd says
    installed: set[str] = field(default_factory=lambda: {"zkifc.service"})

    @property
    def journal(self) -> Journal:
        """The journal, as a run has it that has read it."""
        found = Journal(self.boot)
        with contextlib.suppress(JournalError):
            found.read()
        return found

    def crfs(self, *argv: str) -> Result:
        """Type a command."""
        self.capsys.readouterr()
        try:
            code = cli.main(argv)
        except SystemExit as end:
            code = int(end.code or 0)
        said = self.capsys.readouterr()
        return Result(code, said.out, said.err)

    def refuses(self, argv: Sequence[str], code: int, *words: str) -> Result:
        """The command refuses as the project promises; `words` are in its first line."""
        before, active = snapshot(self.boot), set(self.active)
        result = self.crfs(*argv)
        assert result.code == code, result
        lines = result.err.rstrip("\n").split("\n")
        assert lines[0].startswith("crfs: ")
        assert len(lines[0]) < 300
        for word in words:
            assert word in lines[0], lines[0]
        assert any(line.startswith("Next: ") for line in lines), "no next step"
        assert len(lines) <= 3, lines
        assert "Traceback" not in result.err + result.out
        assert not self.changes(), "a refusal must change nothing"
        assert snapshot(self.boot) == before
        assert self.active == active, "services are left as they were"
        return result

    def stops(self, code: int, *words: str) -> Result:
        """The worker stops without a change; it writes lines for the system's journal."""
        before = snapshot(self.boot)
        result = self.crfs("run")
        assert result.code == code, result
        for word in (*words, "Next: "):
            assert word in result.err
        assert len(result.err.splitlines()) == 1
        assert "Traceback" not in result.err + result.out
        assert not self.changes()
        assert snapshot(self.boot) == before
        return result

    def changes(self) -> list[list[str]]:
        """Effects apart from asking the HSM, for which its daemon has to step aside."""
        daemon = [["systemctl", verb, unit] for verb in ("stop", "start") for unit in keys.SERVICES]
        asking = [f"/sbin/{Path(name).name}" for name in keys.TOOLS]
        asking.append(str(dress.scripts() / dress.TPM2_SCRIPT))
        return [
            one
            for one in self.effects
            if one not in daemon and one[0] not in asking and str(keys._KEY_FOLDER) not in one
        ]

    def query(self, argv: Sequence[str], *, timeout: float = 60, ok: Sequence[int] = (0,)) -> str:
        self._need(argv[0])
        match list(argv):
            case ["lsblk", "--json", *_]:
                return json.dumps({"blockdevices": self.rows})
            case ["lsblk", *_]:
                return "NAME MAJ:MIN RM SIZE RO TYPE MOUNTPOINTS\nmmcblk0\n"
            case ["systemctl", "is-active", model.UNIT]:
                return "failed\n" if self.failed else "inactive\n"
            case ["systemctl", "is-active", unit]:
                return "active\n" if unit in self.active else "inactive\n"
            case ["systemctl", "is-system-running"]:
                return "running\n"
            case ["systemctl", "show", _, *units]:
                return "\n".join(map(self._show, units))
            case ["journalctl", "--dmesg", *_]:
                return self.kernel_log
            case ["apt-get", "--simulate", *_]:
                return "Inst something [1] (2 Debian:12/stable [arm64])\n" * self.pending
            case [sys.executable, "-P", "-m", "crfs.zymbit"]:
                return json.dumps(self.hsm)
            case ["vcgencmd", "get_throttled"]:
                return self.throttled + "\n"
            case ["gpg", *_]:
                return self.gpg
            case ["systemctl", "is-enabled", unit]:
                return "enabled\n" if unit in self.enabled else "disabled\n"
            case ["blkid", "--probe", "--match-tag", tag, *_, path]:
                return self.superblocks.get((path, tag), "") + "\n"
            case ["cryptsetup", "luksDump", "--dump-json-metadata", path]:
                tokens = dict(enumerate(self.tokens.get(path, [])))
                return json.dumps({"keyslots": {"0": {}}, "tokens": tokens})
            case ["lsinitramfs", _]:
                return self.listing
            case ["cryptsetup", "benchmark", *_]:
                return "# Tests\n# Algorithm\naes-xts 512b 100.0 MiB/s 100.0 MiB/s\n"
        raise AssertionError(f"an unexpected query: {argv}")

    def run(self, argv: Sequence[str], *, stdin: bytes | None = None, **options: Any) -> bytes:
        self._need(argv[0])
        self.effects.append(list(argv))
        self.on_run(list(argv))
        match list(argv):
            case ["/sbin/zkgrifs", count]:
                if not self.hsm_answers:
                    raise CommandError(
                        "'/sbin/zkgrifs 32' failed with exit code 1.",
                        advice="read what the command said: no answer on the bus",
                    )
                return os.urandom(int(count))
            case ["/sbin/zklockifs", path]:
                return b"sealed:" + Path(path).read_bytes()
            case ["/sbin/zkunlockifs", path]:
                return Path(path).read_bytes().removeprefix(b"sealed:")
            case [script, what] if script.endswith(f"/{dress.TPM2_SCRIPT}"):
                return self._ask_tpm(what, stdin or b"")
            case ["umount", path] if path == str(keys._KEY_FOLDER):
                for secret in keys._KEY_FOLDER.iterdir():
                    secret.unlink()
            case ["systemctl", "stop", unit]:
                self.active.discard(unit)
            case ["systemctl", "start", model.UNIT] if self.unit_works:
                self.failed = cli.main(["run"]) != 0
            case ["systemctl", "start", unit] if unit in keys.SERVICES:
                self.active.add(unit)
            case ["cryptsetup", "close", name]:
                self.mappings.pop(name, None)
        return b""

    def _show(self, unit: str) -> str:
        facts = {
            "Id": unit,
            "LoadState": "loaded" if unit in self.installed else "not-found",
            "ActiveState": "active" if unit in self.active else "inactive",
            "UnitFileState": "enabled" if unit in self.enabled else "disabled",
        }
        return "".join(f"{name}={value}\n" for name, value in facts.items())

    def _ask_tpm(self, what: str, given: bytes) -> bytes:
        if not self.tpm_answers:
            said = "read what the command said: ERROR: of the tools\nthe TPM does not answer"
            raise CommandError("'crfs-tpm2 ask' failed with exit code 1.", advice=said)
        match what:
            case "seal":
                return json.dumps(sealed_by_tpm(given)).encode()
            case "unseal":
                return bytes.fromhex(json.loads(given)["private"])
        return b""

    def _need(self, name: str) -> None:
        if name in self.missing:
            raise CommandError(f"The command {name} is not installed.", advice="install it")


def build(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    layout: str = "boot/firmware",
) -> FakePi:
    """A healthy fake Pi with its boot partition at `layout` below a temporary folder."""
    boot = tmp_path / layout
    boot.mkdir(parents=True)
    (boot / "config.txt").write_bytes(CONFIG)
    (boot / "cmdline.txt").write_text(CMDLINE + "\n")
    (boot / "initramfs8").write_bytes(b"i" * 1000)
    mounts = {
        "/": Mount("/", "/dev/mmcblk0p2", "ext4", ("rw", "noatime")),
        str(boot): Mount(str(boot), "/dev/mmcblk0p1", "vfat", ("rw",)),
    }
    pi = FakePi(tmp_path, capsys, monkeypatch, boot, [card_row(str(boot)), stick_row()], mounts)
    lay_out(tmp_path, PI_4)
    tools = tmp_path / "sbin"
    state = tmp_path / "var/lib/zymbit"
    run = tmp_path / "run/crfs"
    tools.mkdir()
    run.mkdir()
    for name in keys.TOOLS:
        (tools / name).touch()

    def no_udev(disk: probe.Block) -> probe.Block:
        return disk

    def set_up(module: object, **names: Any) -> None:
        for name, value in names.items():
            monkeypatch.setattr(module, name, value)

    set_up(runner, run=pi.run, query=pi.query)
    set_up(
        probe,
        BOOT_MOUNTS=(tmp_path / "boot/firmware", tmp_path / "boot"),
        CONFIG=tmp_path / "crfs.conf",
        UNLOCKED=run / "unlocked",
        mount_of=lambda target: pi.mounts.get(target),
        root_source=lambda: pi.root,
        boot_id=lambda: pi.boot_id,
        kernel_cmdline=lambda: pi.cmdline,
        swaps=lambda: pi.swaps,
        kernel_release=lambda: "6.1.0-rpi",
        cpu_has_aes=lambda: True,
        firmware_has_tryboot=lambda: True,
        stopping_units=lambda: pi.stopping.pop(0) if pi.stopping else (),
        command_exists=lambda name: name not in pi.missing,
        usage=lambda folder="/": probe.Usage(4 * GB, 20 * GB, 2000000, 100000),
        running_from=lambda root, stage: pi.where,
        mapping_path=lambda name: tmp_path / "mapper" / name,
        unlocked_by_itself=lambda mapping: mapping in pi.unlocked,
        luks_of_mapping=lambda name: pi.mappings.get(name, ""),
        _with_identity=no_udev,
    )
    set_up(machine, ROOT=tmp_path)
    set_up(machine.Machine, boot_free=property(lambda self: pi.boot_free))
    set_up(platform, machine=lambda: "aarch64")
    # An absolute name stays what it is when a folder is put before it.
    names = tuple(str(tools / name) for name in keys.TOOLS)
    set_up(tpm2, DEVICE=tmp_path / "tpmrm0")
    set_up(keys, TOOLS=names, STATE_FOLDER=state, _KEY_FOLDER=run / "keys")
    # That would be this process, for good.
    set_up(keys, protect_memory=lambda: True)
    set_up(
        live,
        STATUS=str(run / "status.json"),
        LOCK=str(run / "lock"),
        REPORT=str(tmp_path / "report.json"),
        boot_is_mounted=lambda: str(boot) in pi.mounts,
        JOURNALS=tuple(str(pi.boot / f"crfs/journal.{slot}") for slot in (0, 1)),
    )
    set_up(consent, FILE=tmp_path / "lib/plan.json")
    set_up(bootrecord, FILE=tmp_path / "lib/boot.sha256")
    # The runs that tests begin with a journal of their own are agreed to.
    consent.give(plan(str(boot)))
    set_up(os, geteuid=lambda: 0)
    return pi
