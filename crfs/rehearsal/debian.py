"""The bare Debian 12 that a card starts from, as a tar, made by mmdebstrap without mounts."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path

from crfs.errors import RehearsalError

SUITE = "bookworm"
KERNELS = {"amd64": "linux-image-amd64", "arm64": "linux-image-arm64"}
PACKAGES = (
    *("acl", "attr", "ca-certificates", "cryptsetup", "cryptsetup-initramfs", "dbus"),
    *("dosfstools", "e2fsprogs", "fdisk", "initramfs-tools", "iproute2", "kmod"),
    *("libcap2-bin", "libpam-systemd", "login", "openssh-server", "procps", "python3"),
    *("python3-distutils", "python3-pyudev", "python3-sh", "python3-structlog"),
    *("python3-systemd", "python3-transitions", "rsync", "sudo", "systemd", "systemd-sysv"),
    *("systemd-timesyncd", "udev", "util-linux", "zstd"),
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


def make_tar(arch: str, tar: Path, setup: Path, environment: Mapping[str, str]) -> None:
    """Install Debian for `arch` and write it to `tar`.

    `setup` is run on it as the last step, with `environment`; but of a foreign architecture the
    packages are unpacked only, and all scripts are left to who has an emulator for them.
    """
    tar.parent.mkdir(parents=True, exist_ok=True)
    native = arch == "amd64"
    variant = "apt" if native else "extract"
    arguments = ["mmdebstrap", f"--variant={variant}", f"--architectures={arch}"]
    arguments += [f"--include={','.join(packages(arch))}", "--aptopt=APT::Install-Recommends=false"]
    arguments += [f"--dpkgopt=path-exclude={pattern}" for pattern in NOT_UNPACKED]
    # The initramfs of the bare system is thrown away: do not spend time on building it.
    arguments += [
        "--extract-hook=mkdir -p $1/etc/initramfs-tools && "
        "echo 'update_initramfs=no' >$1/etc/initramfs-tools/update-initramfs.conf",
        "--dpkgopt=force-confold",
        "--customize-hook=sed -i s/=no/=yes/ $1/etc/initramfs-tools/update-initramfs.conf",
    ]
    if native:
        arguments.append(f'--customize-hook=sh {shlex.quote(str(setup))} "$1"')
    arguments += [SUITE, str(tar)]
    try:
        done = subprocess.run(
            arguments,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            env={**os.environ, **environment},
        )
    except FileNotFoundError:
        raise RehearsalError(
            "mmdebstrap is not installed.", advice="apt-get install mmdebstrap"
        ) from None
    except subprocess.TimeoutExpired:
        raise RehearsalError(f"mmdebstrap was not done within {TIMEOUT_S} s.") from None
    if done.returncode != 0:
        raise RehearsalError(f"mmdebstrap failed:\n{done.stderr[-3000:]}")


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
