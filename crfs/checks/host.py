"""Board, operating system and clock.

Sources: the vendor's FAQ and published scripts; crfs's own needs.
"""

from __future__ import annotations

import datetime
import re
import tempfile
from pathlib import Path

from crfs import boards, keys, probe, runner
from crfs.checks.base import FAQ, Check, Finding, cannot_tell, failure, ok, warning
from crfs.checks.machine import UPGRADES, Machine
from crfs.errors import CommandError, HostError
from crfs.model import UNIT

# Commands that the migration calls, and the Debian package of each.
COMMANDS = {
    "blkid": "util-linux", "blkdiscard": "util-linux", "cryptsetup": "cryptsetup-bin",
    "debugfs": "e2fsprogs", "dumpe2fs": "e2fsprogs", "e2fsck": "e2fsprogs", "lsblk": "util-linux",
    "lsinitramfs": "initramfs-tools", "mkfs.ext4": "e2fsprogs", "mkinitramfs": "initramfs-tools",
    "mkswap": "util-linux",
    "rsync": "rsync", "systemctl": "systemd", "udevadm": "udev",
    "wipefs": "util-linux",
}  # fmt: skip
_OWN = "what crfs needs"
_DEBIAN = "12"
# A clock that is right is past the making of this.
_EARLIEST = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC).timestamp()
_CLOCK_OFF_S = 300
_LISTS_OLD_S = 30 * 86400
_UPDATE = "'sudo apt update && sudo apt upgrade', then reboot"
# On a slow board apt may take longer than all the rest.
_APT_S = 3


def _board(machine: Machine) -> Finding:
    if not machine.model:
        return cannot_tell("there is no device tree that names the board")
    board = boards.recognise(machine.model)
    if board is None:
        return warning(
            f"{machine.model} is not among the boards that Zymbit lists for the HSM6",
            "'crfs explain boards' lists those that crfs knows",
        )
    if not board.encrypts:
        return warning(
            f"{machine.model}: the HSM6 works there, but crfs cannot encrypt it",
            "'crfs explain boards' tells what would be needed",
        )
    return ok(machine.model)


def _system(machine: Machine) -> Finding:
    text = machine.read("/etc/os-release")
    if text is None:
        return cannot_tell("/etc/os-release is not there")
    facts = dict(re.findall(r'(?m)^([A-Z_]+)="?([^"\n]*)', text))
    name = probe.printable(facts.get("PRETTY_NAME", "an unknown system"))
    family = {facts.get("ID", ""), *facts.get("ID_LIKE", "").split()}
    if not family & {"debian", "raspbian"}:
        return warning(f"{name} is not based on Debian", "crfs is tested on Debian 12 only")
    if facts.get("VERSION_ID") != _DEBIAN:
        return warning(f"{name}: crfs is tested on Debian {_DEBIAN} only", "have a backup")
    return ok(name)


def _dracut(machine: Machine) -> Finding:
    if machine.path("/usr/bin/dracut").exists():
        return failure(
            "this system builds its initramfs with dracut, which crfs does not handle",
            "install initramfs-tools ('sudo apt install initramfs-tools cryptsetup-initramfs') "
            "and remove dracut",
        )
    return ok("the initramfs is built with initramfs-tools")


def _commands(machine: Machine) -> Finding:
    missing = [name for name in COMMANDS if not probe.command_exists(name)]
    if missing:
        packages = " ".join(sorted({COMMANDS[name] for name in missing}))
        return failure(
            f"commands are missing: {', '.join(missing)}", f"'sudo apt install {packages}'"
        )
    return ok(f"the {len(COMMANDS)} commands that crfs calls are there")


def _cryptroot(machine: Machine) -> Finding:
    if not machine.path("/usr/share/initramfs-tools/hooks/cryptroot").exists():
        return failure(
            "the package cryptsetup-initramfs is not installed",
            "'sudo apt install cryptsetup-initramfs'",
        )
    return ok("cryptsetup-initramfs is installed")


def _service(machine: Machine) -> Finding:
    if machine.units[UNIT].enabled != "enabled":
        return failure(
            f"{UNIT} is not enabled, so the work could not go on after a reboot",
            f"'sudo systemctl enable {UNIT}'",
        )
    return ok(f"{UNIT} is enabled")


def _kernel(machine: Machine) -> Finding:
    flavour = machine.kernel.rpartition("-")[2]
    installed = [
        path.name
        for path in machine.path("/lib/modules").glob(f"*-{flavour}")
        if (path / "modules.dep").exists()
    ]
    newest = max([machine.kernel, *installed], key=_version)
    if newest != machine.kernel:
        return warning(
            f"the kernel {newest} is installed, but {machine.kernel} runs", "reboot, then try again"
        )
    if machine.path("/run/reboot-required").exists():
        return warning("an update waits for a reboot", "reboot, then try again")
    return ok(f"the newest installed kernel runs ({machine.kernel})")


def _version(release: str) -> list[tuple[int, str]]:
    """A kernel's release so that it sorts by its numbers."""
    return [(int(number or 0), text) for number, text in re.findall(r"(\d+)|([^\d.+-]+)", release)]


def _updates(machine: Machine) -> Finding:
    lists = [*machine.path("/var/lib/apt/lists").glob("*_Packages*")]
    if not lists:
        return cannot_tell("there are no lists of packages", "'sudo apt update' fetches them")
    age = machine.now - max(path.stat().st_mtime for path in lists)
    if age > _LISTS_OLD_S:
        return warning(f"the lists of packages are {age / 86400:.0f} days old", _UPDATE)
    argv = ["apt-get", "--simulate", "--quiet=2", "upgrade"]
    try:
        pending = len(re.findall(r"(?m)^Inst ", runner.query(argv, timeout=_APT_S)))
    except CommandError:
        return cannot_tell(
            f"apt did not tell within {_APT_S} s", "'apt list --upgradable' takes its time"
        )
    if pending:
        return warning(f"{pending} packages wait for an update", _UPDATE)
    return ok("all packages are up to date")


def _upgrades(machine: Machine) -> Finding:
    if machine.units[UPGRADES].active == "active":
        return warning(
            "unattended-upgrades may change kernel and initramfs in the middle of an encryption",
            f"'sudo systemctl disable --now {UPGRADES}' until it is done",
        )
    return ok("no unattended upgrades")


def _repository_key(machine: Machine) -> Finding:
    folder = machine.path("/etc/apt/sources.list.d")
    lists = [*folder.glob("*.list"), *folder.glob("*.sources")]
    ours = [text for path in lists if "zk-sw-repo" in (text := path.read_text(errors="replace"))]
    if not ours:
        return ok("Zymbit's repository is not among the sources of apt")
    named = re.findall(r"[Ss]igned-[Bb]y\s*[=:]\s*([^\s\]]+)", "".join(ours))
    candidates = [machine.path(name) for name in named] or [
        *machine.path("/etc/apt/trusted.gpg.d").glob("*zym*"),
        machine.path("/etc/apt/trusted.gpg"),
    ]
    files = [path for path in candidates if path.is_file()]
    if not files:
        return failure("the key of Zymbit's repository is not there", _new_key(named))
    if not probe.command_exists("gpg"):
        return cannot_tell("gpg is not installed, which reads the repository's key")
    ends = [end for path in files for end in _ends(path)]
    if not ends:
        return cannot_tell(f"no key of Zymbit in {', '.join(str(path) for path in files)}")
    last = max(end or float("inf") for end in ends)
    if last < machine.now:
        day = datetime.datetime.fromtimestamp(last, datetime.UTC).date()
        return failure(f"the key of Zymbit's repository expired on {day}", _new_key(named))
    return ok("the key of Zymbit's repository is valid")


def _new_key(named: list[str]) -> str:
    place = named[0] if named else "/etc/apt/trusted.gpg.d/zymbit.asc"
    return (
        "fetch the new one: 'curl -L https://zk-sw-repo.s3.amazonaws.com/apt-zymkey-pubkey.gpg | "
        f"sudo tee {place}' (apt-key, which the FAQ names, is gone), then 'sudo apt update'"
    )


def _ends(path: Path) -> list[float]:
    """When each key of Zymbit in a file expires, 0 for never."""
    # gpg wants a home to look into, and a user's own must not be made by looking.
    with tempfile.TemporaryDirectory(prefix="crfs-doctor-") as home:
        argv = ["gpg", "--batch", "--no-options", "--homedir", home]
        text = runner.query(
            [*argv, "--show-keys", "--with-colons", str(path)], timeout=10, ok=(0, 2)
        )
    ends: list[float] = []
    for block in re.split(r"(?m)^(?=pub:)", text):
        fields = block.split("\n", 1)[0].split(":")
        if fields[0] == "pub" and re.search(r"zymbit|zymkey", block, re.IGNORECASE):
            ends.append(float(fields[6] or 0))
    return ends


def _clock(machine: Machine) -> Finding:
    today = datetime.datetime.fromtimestamp(machine.now, datetime.UTC)
    advice = (
        "connect the Pi to the Internet, where it gets the time by NTP ('timedatectl' shows it), "
        "or set it: 'sudo date -s \"2026-01-31 12:00\"'"
    )
    if machine.now < _EARLIEST:
        return failure(f"the clock says {today:%Y-%m-%d}, which is long ago", advice)
    if machine.path("/run/systemd/timesync/synchronized").exists():
        return ok("the clock is synchronised by NTP")
    if machine.units[keys.DAEMON].active == "active":
        ahead = machine.hsm.get("clock_ahead")
        if ahead is not None and abs(ahead) < _CLOCK_OFF_S:
            return ok("the clock agrees with the HSM's; NTP has not set it")
        if ahead is not None:
            where = "behind" if ahead > 0 else "ahead of"
            return warning(
                f"the clock is {abs(ahead)} s {where} the HSM's; NTP has not set it", advice
            )
    return cannot_tell("NTP has not set the clock, and the HSM does not tell the time", advice)


def _governor(machine: Machine) -> Finding:
    text = machine.read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    if text is None:
        return ok("the CPU's speed is fixed")
    if text == "ondemand" and "i2c" in machine.kernel_log and "timed out" in machine.kernel_log:
        return warning(
            "the CPU's governor is ondemand, and the I2C bus has time-outs",
            "set 'performance': echo performance | sudo tee "
            "/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
        )
    return ok(f"the CPU's governor is {text}")


CHECKS = (
    Check("board", "model of the device tree", FAQ + ", compatible boards", _board),
    Check("system", "/etc/os-release", _OWN, _system),
    Check("dracut", "/usr/bin/dracut", _OWN, _dracut, stops=HostError),
    Check("commands", "the folders of programs", _OWN, _commands, stops=HostError),
    Check("cryptroot", "initramfs-tools' hooks", _OWN, _cryptroot, stops=HostError),
    Check("service", f"systemctl, {UNIT}", _OWN, _service, stops=HostError),
    Check("kernel", "/lib/modules, /run/reboot-required", FAQ + ", checklist", _kernel),
    Check("updates", "apt-get --simulate upgrade", FAQ + ", checklist", _updates),
    Check("unattended-upgrades", f"systemctl, {UPGRADES}", "Zymbit's documentation", _upgrades),
    Check("repository-key", "apt's sources, gpg", FAQ + ", expired GPG key", _repository_key),
    Check("clock", "clock, systemd-timesyncd, the HSM", FAQ + ", reset the clock", _clock),
    Check("governor", "scaling_governor, the kernel's log", "Zymbit's documentation", _governor),
)  # fmt: skip
