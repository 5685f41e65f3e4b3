"""User-mode Linux as a workbench: root, a real kernel, real block devices, on the host's files.

The host needs no root, no loop devices and no device-mapper for it. A script sees the whole
file tree of the host (with the rights of the user who started it) and its disks as `/dev/ubda`,
`/dev/ubdb`, ... with their partitions `/dev/ubda1` and so on; those that are vhost-user sockets
instead of images as `/dev/vda`, `/dev/vdb`, ... /proc, /sys, /dev and an empty
/run are mounted; ext4, vfat, dm-crypt and their ciphers work. There is no network, no systemd and
no udev.
"""

from __future__ import annotations

import shlex
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from crfs.errors import RehearsalError
from crfs.rehearsal.programs import run_limited
from crfs.rehearsal.uml import furnish_modules, make_program, uml_disk, uml_kernel

MAX_DISKS = 8

# dm_crypt's own request for these comes too late in user-mode Linux: opening a volume then
# fails with "encrypted_key: failed to alloc_cipher".
FIRST_MODULES = ("cbc", "hmac", "dm_mod", "dm_crypt", "adiantum", "vfat", "loop", "virtio_blk")

_INIT = """#!/bin/sh
# First process of a user-mode Linux workbench: prepare, run the script, note its exit code.
work={work}
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /run/cryptsetup /dev/pts /dev/shm
mount -t devpts devpts /dev/pts 2>/dev/null
echo "$work/modprobe" >/proc/sys/kernel/modprobe
for module in {modules}; do "$work/modprobe" -q "$module"; done
[ -e /dev/fd ] || ln -s /proc/self/fd /dev/fd
. "$work/environment"
cd {cwd}
"$work/script" </dev/null >"$work/output" 2>&1
code=$?
cd /
sync
echo "$code" >"$work/code.new"
mv "$work/code.new" "$work/code"
echo o >/proc/sysrq-trigger
sleep 60
"""


@dataclass(frozen=True)
class UmlResult:
    """What a script in user-mode Linux came to: exit code and everything it printed."""

    code: int
    output: str
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether the script ended with exit code 0."""
        return self.code == 0


def run_in_uml(
    script: str,
    *,
    disks: Sequence[Path] = (),
    mem: int = 512,
    timeout: float = 300.0,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    check: bool = False,
    keep_writes: bool = True,
) -> UmlResult:
    """Run `script` as root in user-mode Linux and return its exit code and output.

    `script` is /bin/sh text, unless its first line is another `#!`. `disks` appear in their order
    as /dev/ubda, /dev/ubdb, ...; they are raw images and are written to. Sockets among them are
    vhost-user disks, which appear as /dev/vda, /dev/vdb, ... and are always written to. `mem` is
    in MiB, `timeout` in seconds of the host's clock. `env` is added to a small fixed environment.
    With `check`, an exit code other than 0 raises as well. Without `keep_writes` the images stay
    as they are: what is written to them goes to a place that is thrown away.

    Raises RehearsalError if user-mode Linux is missing, does not start, is not done in time, or
    (with `check`) if the script failed.
    """
    if len(disks) > MAX_DISKS:
        raise RehearsalError(f"At most {MAX_DISKS} disks fit into the workbench.")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="crfs-uml-") as name:
        work = Path(name)
        _furnish(work, script, env or {}, cwd or Path.cwd())
        arguments = [*uml_kernel(), f"mem={mem}M", *_disk_arguments(disks, work, keep_writes)]
        arguments += ["root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw"]
        arguments += [f"init={work}/init", f"uml_dir={work}/", "umid=workbench"]
        arguments += ["con=null", "con0=null,fd:1", "quiet", "panic=1"]
        console = work / "console"
        in_time = run_limited(arguments, console, timeout)
        output = _text(work / "output")
        code = _text(work / "code").strip()
        if not code:
            reason = "did not end" if in_time else f"was not done within {timeout:.0f} s"
            tail = (output + "\n" + _text(console))[-4000:]
            raise RehearsalError(f"A script in user-mode Linux {reason}. Last output:\n{tail}")
    result = UmlResult(int(code), output, time.monotonic() - started)
    if check and not result.ok:
        raise RehearsalError(
            f"A script in user-mode Linux failed with code {result.code}:\n{output[-4000:]}"
        )
    return result


def _furnish(work: Path, script: str, env: Mapping[str, str], cwd: Path) -> None:
    """Write all that the first process needs into `work`."""
    work.chmod(0o755)  # services that give up root still have to reach it
    furnish_modules(work)
    variables = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LC_ALL": "C.UTF-8",
        "DM_DISABLE_UDEV": "1",  # nobody else would make the device nodes
        "UML_WORK": str(work),
        **env,
    }
    exports = "".join(f"export {key}={shlex.quote(value)}\n" for key, value in variables.items())
    (work / "environment").write_text(exports)
    first = _INIT.format(
        work=shlex.quote(str(work)), modules=" ".join(FIRST_MODULES), cwd=shlex.quote(str(cwd))
    )
    make_program(work / "init", first)
    make_program(work / "script", script if script.startswith("#!") else f"#!/bin/sh\n{script}\n")


def _disk_arguments(disks: Sequence[Path], work: Path, keep_writes: bool) -> list[str]:
    """`ubdX=` arguments; a link stands for each image, since ',' and ':' mean something there."""
    arguments = []
    for index, disk in enumerate(disks):
        if disk.is_socket():
            arguments.append(uml_disk("", disk))
            continue
        if not disk.is_file():
            raise RehearsalError(f"There is no disk image {disk}.")
        link = work / f"disk{index}"
        link.symlink_to(disk.resolve())
        written = f"{link}" if keep_writes else f"{work}/cow{index},{link}"
        arguments.append(f"ubd{chr(ord('a') + index)}={written}")
    return arguments


def _text(path: Path) -> str:
    """The text of a file, empty if it is not there."""
    return path.read_text(errors="replace") if path.is_file() else ""
