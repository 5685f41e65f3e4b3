"""The Debian 12 that a card starts from, as a tar, made without mounts."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from crfs.errors import RehearsalError
from crfs.rehearsal.programs import program

SUITE = "bookworm"
NATIVE = "amd64"
KERNELS = {"amd64": "linux-image-amd64", "arm64": "linux-image-arm64"}
PACKAGES = (
    *("acl", "attr", "ca-certificates", "cryptsetup", "cryptsetup-initramfs", "dbus"),
    *("dosfstools", "e2fsprogs", "fdisk", "initramfs-tools", "iproute2", "kmod"),
    *("libcap2-bin", "libpam-systemd", "login", "openssh-server", "procps", "python3"),
    *("python3-distutils", "python3-pyudev", "python3-sh", "python3-structlog"),
    *("python3-systemd", "python3-transitions", "rsync", "sudo", "systemd", "systemd-sysv"),
    *("systemd-timesyncd", "tpm2-tools", "udev", "util-linux", "zstd"),
)
NOT_UNPACKED = (
    "/usr/share/man/*",
    "/usr/share/doc/*",
    "/usr/share/locale/*",
    "/usr/share/info/*",
    "/usr/lib/udev/hwdb.d/*",
    "/usr/lib/modules/*/kernel/drivers/gpu/*",
    "/usr/lib/modules/*/kernel/drivers/media/*",
    "/usr/lib/modules/*/kernel/drivers/infiniband/*",
    "/usr/lib/modules/*/kernel/drivers/net/ethernet/*",
    "/usr/lib/modules/*/kernel/drivers/net/wireless/*",
    "/usr/lib/modules/*/kernel/sound/*",
)
CONTROL = Path("debian/control")
TIMEOUT_S = 1800


def packages(arch: str) -> list[str]:
    """The packages of the card, with those that crfs depends on."""
    return sorted({*PACKAGES, KERNELS[arch], *depends(CONTROL)})


def install(arch: str, tar: Path, setup: Path, environment: Mapping[str, str]) -> None:
    """Make a Debian for `arch`, run `setup` on it with `environment`, and write it to `tar`.

    This machine has to be able to run the programs of `arch`.
    """
    tar.parent.mkdir(parents=True, exist_ok=True)
    arguments = ["mmdebstrap", "--variant=apt", f"--architectures={arch}"]
    arguments += [f"--include={','.join(packages(arch))}"]
    arguments += ["--aptopt=APT::Install-Recommends=false", "--dpkgopt=force-confold"]
    arguments += [f"--dpkgopt=path-exclude={pattern}" for pattern in NOT_UNPACKED]
    # The initramfs of the bare system is thrown away: do not spend time on building it.
    conf = "$1/etc/initramfs-tools/update-initramfs.conf"
    arguments += [
        f"--extract-hook=mkdir -p $1/etc/initramfs-tools && echo update_initramfs=no >{conf}",
        f"--customize-hook=sed -i s/=no/=yes/ {conf}",
        f'--customize-hook=sh {shlex.quote(str(setup))} "$1"',
        *(SUITE, str(tar)),
    ]
    run(arguments, {**os.environ, **environment})


def run(arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run a program that makes a Debian; RehearsalError if it fails."""
    path = program(arguments[0], arguments[0])
    try:
        done = subprocess.run(
            [path, *arguments[1:]],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        raise RehearsalError(f"{arguments[0]} was not done within {TIMEOUT_S} s.") from None
    if done.returncode != 0:
        output = (done.stdout + done.stderr)[-3000:]
        raise RehearsalError(f"{arguments[0]} failed:\n{output}")


def depends(control: Path) -> set[str]:
    """The packages that crfs depends on, first alternatives only, read from debian/control."""
    if not control.is_file():
        return set()
    text = re.sub(r"\n[ \t]+", " ", control.read_text())
    names = set()
    for line in re.findall(r"^(?:Pre-)?Depends:(.*)$", text, re.MULTILINE):
        for item in line.split(","):
            first = item.split("|")[0].strip()
            if first and not first.startswith("$"):
                names.add(re.split(r"[\s(:\[]", first)[0])
    return names
