"""Phase 1, from the plain card: a verified, encrypted copy of the root on the stick."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from crfs import (
    bindings,
    blocks,
    consent,
    dress,
    fatfile,
    keys,
    luks,
    probe,
    proof,
    runner,
    services,
    swapfiles,
    trees,
)
from crfs.bootconfig import STAGE, BootConfig
from crfs.errors import CARD_UNTOUCHED, CommandError, DisagreementError, HostError, LayoutError
from crfs.model import STAGE_LABEL, STAGE_MAPPING, Plan
from crfs.steps.base import (
    SOURCE_MOUNT,
    STAGE_MOUNT,
    Context,
    Step,
    bind,
    filesystem_bytes,
    filesystem_limit,
    inodes,
    mapping,
    unmount,
    used,
    used_read,
)

Result = TypeVar("Result")

# How much larger an initramfs is while it is made than when it is packed, for the progress.
_UNPACKED = 3
# The tables of inodes stay as mke2fs left them, so that what nobody uses need not be restored.
_WRITABLE = "noatime,noinit_itable,commit=60"
# Seconds for programs that have lost their display, and are ending; and between two looks.
_ENDING, _PAUSE = 30.0, 1.0


def _seal_key(context: Context) -> None:
    if context.plan.recovery_key:
        raise DisagreementError(
            f"{context.boot.sealed_key} is gone. The recovery key that you were shown was made "
            "of it; a new one would not open anything.",
            data=CARD_UNTOUCHED,
            advice="'sudo crfs rollback', then 'sudo crfs encrypt', which shows a new one",
        )
    context.binding.take()
    key = context.binding.make_key()
    sealed = context.binding.seal(key)
    context.save(key_digest=bindings.digest(key))
    store_key(context.boot, sealed)


def store_key(boot: BootConfig, sealed: bytes) -> None:
    """Keep the sealed key where all three phases find it."""
    boot.own.mkdir(mode=0o700, exist_ok=True)
    fatfile.replace(boot.sealed_key, sealed)


def _key_present(context: Context) -> bool:
    return context.boot.sealed_key.exists() and bool(context.key())


def _format_stick(context: Context) -> None:
    plan = context.plan
    stick = probe.find_stick(plan.stick, plan.card)
    unmount(STAGE_MOUNT)
    luks.close_mapping(STAGE_MAPPING)
    for block in stick.walk():
        for mount in block.mounts:
            runner.run(["umount", mount], data=CARD_UNTOUCHED)
    runner.run(["wipefs", "--all", stick.path], data=CARD_UNTOUCHED)
    context.format(stick.path, plan.uuids.stage_luks, STAGE_LABEL, luks.STAGE_DATA_OFFSET)


def _stick_present(context: Context) -> bool:
    stage = probe.find_stage(context.plan.uuids.stage_luks)
    if not context.formatted(stage.path):
        title = context.binding.TITLE
        raise DisagreementError(
            "The stick carries this migration's LUKS header, but the key that the "
            f"{title} gives does not open it.",
            data=CARD_UNTOUCHED,
            advice=f"see that the {title} is the one that it was begun with ('sudo crfs doctor'), "
            "then 'sudo crfs resume'; if it stays so, the header is damaged: 'sudo crfs rollback', "
            "then 'sudo crfs encrypt' with another stick",
        )
    return True


def _make_filesystem(context: Context) -> None:
    plan = context.plan
    context.open_stage()
    runner.run(
        [
            "mkfs.ext4", "-q", "-F", "-b", "4096", "-U", plan.uuids.stage_fs, "-L", plan.label,
            "-N", str(inodes(plan)), "-J", f"size={_journal_mib(plan)}",
            "-E", f"lazy_itable_init=1,nodiscard{_growth(plan)}",
            mapping(STAGE_MAPPING), f"{filesystem_bytes(plan) // 1024}k",
        ],
        timeout=1800,
        data=CARD_UNTOUCHED,
    )  # fmt: skip


def _growth(plan: Plan) -> str:
    """Room in the tables for growing as far as the card's mapping, and no further."""
    limit = filesystem_limit(plan)
    return f",resize={limit // luks.BLOCK}" if limit > filesystem_bytes(plan) else ""


def _journal_mib(plan: Plan) -> int:
    """Of the size that the grown filesystem would be given by mke2fs, up to 64 MiB."""
    gib = filesystem_limit(plan) / 2**30
    return 64 if gib >= 2 else 32 if gib >= 1 else 16 if gib >= 0.5 else 4


# Exit statuses of e2fsck(8): errors that it leaves are 4, what it cannot work on at all is 8; each
# with what it has repaired (1, 2). Cancelled, out of time or killed, it says nothing.
_BEYOND_REPAIR = range(4, 16)


def _filesystem_present(context: Context) -> bool:
    """Whether it is there and sound: a stick may have lost what it was given last."""
    context.open_stage()
    if probe.blkid(mapping(STAGE_MAPPING), "UUID") != context.plan.uuids.stage_fs:
        return False
    unmount(STAGE_MOUNT)
    context.say("checking the filesystem on the stick")
    try:
        runner.run(["e2fsck", "-f", "-p", mapping(STAGE_MAPPING)], timeout=3600, ok=(0, 1))
    except CommandError as failure:
        if failure.status not in _BEYOND_REPAIR:
            raise
        context.say("the filesystem on the stick is damaged, and is made again")
        return False
    return True


def _mount_both(context: Context) -> None:
    """The stage, and the root once more without what is mounted over its folders."""
    _mount_stage(context, _WRITABLE)
    _mount_source()


def _mount_source() -> None:
    unmount(SOURCE_MOUNT)
    SOURCE_MOUNT.mkdir(mode=0o700, parents=True, exist_ok=True)
    bind("/", SOURCE_MOUNT)


def _mount_stage(context: Context, options: str) -> None:
    context.open_stage()
    unmount(STAGE_MOUNT)
    STAGE_MOUNT.mkdir(mode=0o700, parents=True, exist_ok=True)
    runner.run(["mount", "-t", "ext4", "-o", options, mapping(STAGE_MAPPING), str(STAGE_MOUNT)])


def _forget_stage(context: Context) -> None:
    """Unmount the stage, so that everything is read from the medium when it is mounted again."""
    unmount(STAGE_MOUNT)
    device = probe.find_stage(context.plan.uuids.stage_luks).path
    for path in (mapping(STAGE_MAPPING), device):
        runner.run(["blockdev", "--flushbufs", path], timeout=600)


def _copy(context: Context) -> None:
    _mount_both(context)
    trees.unlock_tree(STAGE_MOUNT)
    trees.part_links(SOURCE_MOUNT, STAGE_MOUNT)
    context.copied = proof.Copied()
    _copy_tree(context, sums=context.copied.add)


def _copy_tree(
    context: Context,
    only: Iterable[bytes] | None = None,
    sums: Callable[[bytes, bytes], None] | None = None,
) -> None:
    """Copy and flush. Progress is what the stage holds; what waits in memory does not count."""

    def work() -> None:
        trees.copy(SOURCE_MOUNT, STAGE_MOUNT, swapfiles.of(context.plan), only, sums)
        runner.run(["sync", "--file-system", str(STAGE_MOUNT)], timeout=24 * 3600)

    def look() -> None:
        written = probe.usage(str(STAGE_MOUNT)).used - probe.unwritten_bytes()
        context.report(max(written, 0), context.plan.used)

    try:
        _watched(work, look)
    except CommandError:
        _help_next_try(context)
        raise


def _watched(work: Callable[[], Result], look: Callable[[], None]) -> Result:
    """Do something that tells nothing by itself, and look now and then how far it is.

    Twice a second where that is cheap; looking takes at most a tenth of the time.
    """
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        while not working.done():
            began = time.monotonic()
            look()
            time.sleep(max(0.5, 9 * (time.monotonic() - began)))
        return working.result()


def _help_next_try(context: Context) -> None:
    """What may have kept rsync from writing: a full stage (room or inodes), or flags of before."""
    plan = context.plan
    usage = probe.usage(str(STAGE_MOUNT))
    names = usage.inodes - usage.files
    if usage.free < filesystem_bytes(plan) // 50 or names < usage.inodes // 50:
        blocks.grow(str(STAGE_MOUNT), filesystem_limit(plan))
    trees.unlock_tree(STAGE_MOUNT)


def _differs(plan: Plan) -> Callable[[bytes], bool]:
    """Whether a file of the copy differs from its source on purpose."""
    swap = {path.lstrip("/") for path in swapfiles.of(plan)}
    return lambda name: dress.is_dressed(name) or os.fsdecode(name) in swap


def _read_back(context: Context) -> None:
    """Most of the proof, before any service has to stop."""
    _forget_stage(context)
    _mount_both(context)
    context.proven, differing = proof.prove(
        SOURCE_MOUNT,
        STAGE_MOUNT,
        _differs(context.plan),
        lambda done: context.report(done, context.plan.used),
        context.copied,
    )
    context.say(f"{len(context.proven)} entries read back; {differing} will be copied again")


def _prepare_boot(context: Context) -> None:
    _mount_both(context)
    dress.dress(STAGE_MOUNT, context.plan, context.boot.sealed_key.read_bytes())
    image = _build_initramfs(context)
    context.boot.own.mkdir(mode=0o700, exist_ok=True)
    fatfile.replace(context.boot.initramfs, image)
    if fatfile.read_back(context.boot.initramfs) != image:
        raise CommandError(
            f"{context.boot.initramfs} does not read back as it was written.",
            data=CARD_UNTOUCHED,
            advice="the boot partition or the card is failing: check it with fsck.vfat",
        )
    context.save(fingerprint=_fingerprint(context))


def _build_initramfs(context: Context) -> bytes:
    """Build it inside the copy, as the encrypted system itself will at its next kernel update."""
    # The one that runs now, not the plan's: an update may have come in between.
    kernel = probe.kernel_release()
    # In a folder that only root writes to: anywhere else a link may lie in wait.
    inside = str(consent.FILE.with_name("initramfs"))
    built = STAGE_MOUNT / inside.lstrip("/")
    for folder in ("dev", "proc", "sys"):
        bind(f"/{folder}", STAGE_MOUNT / folder)
    try:
        said = _make_initramfs(context, inside)
        listing = runner.query(["lsinitramfs", str(built)], timeout=600).split()
    finally:
        for folder in ("dev", "proc", "sys"):
            unmount(STAGE_MOUNT / folder)
    needed = ("cryptroot/crypttab", "zk_get_key", "dm-crypt.ko", *context.binding.IN_INITRAMFS)
    missing = [one for one in needed if not any(one in name for name in listing)]
    builtin = Path(f"/lib/modules/{kernel}/modules.builtin")
    # An update may have taken the modules of the kernel that runs.
    known = builtin.read_text() if builtin.exists() else ""
    if "dm-crypt.ko" in missing and "dm-crypt.ko" in known:
        missing.remove("dm-crypt.ko")
    if missing:
        raise HostError(
            f"The new initramfs lacks {', '.join(missing)}. mkinitramfs said: "
            + said.decode(errors="replace").strip(),
            data=CARD_UNTOUCHED,
            advice="if the kernel was updated since the last boot: reboot; if not: "
            "'sudo crfs rollback', and report this with the text above",
        )
    image = built.read_bytes()
    built.unlink()
    return image


def _make_initramfs(context: Context, inside: str) -> bytes:
    """Run mkinitramfs in the copy; return what it said."""
    command = ["chroot", str(STAGE_MOUNT), "mkinitramfs", "-o", inside, probe.kernel_release()]
    before = [one.stat().st_size for one in context.boot.folder.glob("init*")]
    expected = max(before, default=16 * 2**20) * _UNPACKED

    def look() -> None:
        folders = (STAGE_MOUNT / "var/tmp").glob("mkinitramfs_*")
        with contextlib.suppress(FileNotFoundError):  # removed between the two looks
            held = sum(facts.st_size for one in folders for _, _, facts in trees.walk(one))
            context.report(min(held, 0.95 * expected), expected)

    return _watched(
        lambda: runner.run(["sh", "-c", 'exec "$@" 2>&1', "sh", *command], timeout=3600), look
    )


def _boot_prepared(context: Context) -> bool:
    return context.boot.initramfs.exists() and _fingerprint(context) == context.record.fingerprint


def _fingerprint(context: Context) -> str:
    """Of what the initramfs was built from, apart from packages; a change means: build again."""
    digest = hashlib.sha256(probe.kernel_release().encode())
    digest.update(context.boot.sealed_key.read_bytes())
    for folder, _, names in sorted(os.walk(keys.STATE_FOLDER)):
        for name in sorted(names):
            path = Path(folder, name)
            if path.is_file():
                digest.update(str(path).encode(errors="surrogateescape") + b"\0")
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _stop_services(context: Context) -> None:
    """Nothing may write to the root from here on; then the kernel holds it read-only."""
    services.stop_all(context.plan.kept_units)
    for swap in probe.swaps():
        runner.run(["swapoff", swap.path], timeout=900)
    # The journal goes to memory, and on to the terminal, until the reboot.
    runner.run(["journalctl", "--relinquish-var"], timeout=300)
    # Keeps /var/log in memory until it is stopped, and has `isolate` pass it over.
    runner.run(["systemctl", "stop", "log2ram*.service"], timeout=900)
    _make_read_only()


def _make_read_only() -> None:
    """Have the kernel hold the root read-only. Raises LayoutError if a program goes on writing."""
    end = time.monotonic() + _ENDING
    while True:
        runner.run(["sync"], timeout=900)
        try:
            runner.run(["mount", "-o", "remount,ro", "/"], timeout=900)
            return
        except CommandError:
            if time.monotonic() > end:
                break
            time.sleep(_PAUSE)
    raise LayoutError(
        "The root filesystem cannot be made read-only for the last copy; still writing: "
        + ("; ".join(_writers()) or "unknown"),
        data=CARD_UNTOUCHED,
        advice="stop these programs, then 'sudo crfs resume'",
    )


def _writers() -> list[str]:
    """Programs that hold a file of the root open for writing, for the message."""
    found = []
    device = os.stat("/").st_dev
    for process in Path("/proc").glob("[0-9]*"):
        try:
            name = (process / "comm").read_text().strip()
            for link in (process / "fd").iterdir():
                mode = (process / "fdinfo" / link.name).read_text()
                if link.stat().st_dev == device and _open_for_writing(mode):
                    found.append(f"{name} ({process.name}): {link.readlink()}")
        except OSError:
            continue
    return found[:10]


def _open_for_writing(fdinfo: str) -> bool:
    flags = [line.split()[1] for line in fdinfo.splitlines() if line.startswith("flags:")]
    return bool(flags) and int(flags[0], 8) & os.O_ACCMODE != os.O_RDONLY


def restart_services(context: Context) -> None:
    """Undo `stop-services`: the system as it was, with the vendor's services."""
    if probe.is_read_only("/"):
        runner.run(["mount", "-o", "remount,rw", "/"], timeout=300)
    booting = probe.system_state() in ("initializing", "starting")
    if not booting and not probe.unit_active("multi-user.target"):
        # First what has to lie over /var/log before the journal goes there (log2ram).
        runner.run(["systemctl", "start", "sysinit.target"], timeout=300)
        runner.run(["journalctl", "--flush"], timeout=300, ok=(0, 1))
        services.start_all()
    context.binding.give_back(context.plan.services)


def _settle(context: Context) -> None:
    names = _copy_changed(context) if context.proven else _copy_again(context)
    dress.dress(STAGE_MOUNT, context.plan, context.boot.sealed_key.read_bytes())
    try:
        swapfiles.make(STAGE_MOUNT, context.plan)
    except OSError as problem:
        _help_next_try(context)
        raise CommandError(
            f"The swap files could not be made on the copy: {problem}.",
            data=CARD_UNTOUCHED,
            advice="'sudo crfs resume'",
        ) from None
    trees.copy_flags(SOURCE_MOUNT, STAGE_MOUNT, names)
    unmount(STAGE_MOUNT)


def _copy_changed(context: Context) -> Iterable[bytes]:
    """Copy what is not proven, or has changed since; return its names.

    Quicker than to have rsync compare everything, and services are waiting.
    """
    differs = _differs(context.plan)
    names = proof.unproven(SOURCE_MOUNT, STAGE_MOUNT, differs, context.proven)
    _copy_tree(context, names)
    return names


def _copy_again(context: Context) -> Iterable[bytes]:
    """Nothing is proven in this boot: have rsync look at everything."""
    _mount_both(context)
    trees.part_links(SOURCE_MOUNT, STAGE_MOUNT)
    _copy_tree(context)
    return itertools.chain([trees.TOP], (name for name, _, _ in trees.walk(SOURCE_MOUNT)))


def _compare(context: Context) -> None:
    """Everything has to be as on the card; what is not proven yet is read from the medium."""
    context.open_stage()
    _mount_source()
    _forget_stage(context)
    # Open, the mapping keeps in memory what e2fsck reads; the walk needs the same.
    with open(mapping(STAGE_MAPPING), "rb"):
        runner.run(
            ["e2fsck", "-f", "-n", mapping(STAGE_MAPPING)], timeout=3600, data=CARD_UNTOUCHED
        )
        _mount_stage(context, "ro,noload,noatime")
    found = proof.compare(
        SOURCE_MOUNT,
        STAGE_MOUNT,
        _differs(context.plan),
        lambda done: context.report(done, context.plan.used),
        context.proven,
    )
    if found.count:
        raise proof.explain(found)
    context.say(f"{found.entries} files compared, no difference")
    close_stage()


def close_stage() -> None:
    """Let go of the stick, so that nothing changes it any more."""
    unmount(SOURCE_MOUNT)
    unmount(STAGE_MOUNT)
    luks.close_mapping(STAGE_MAPPING)


def _arm(context: Context) -> None:
    context.boot.arm(STAGE)


STAGING = (
    Step(
        id="seal-key",
        title="Make the key and have the HSM or TPM seal it",
        why="the key exists only in memory and sealed",
        do=_seal_key,
        present=_key_present,
    ),
    Step(
        id="format-stick",
        title="Encrypt the stick",
        why="nothing of the root may be written to it in the clear",
        do=_format_stick,
        present=_stick_present,
        destroys="everything on the stick",
    ),
    Step(
        id="make-filesystem",
        title="Make the filesystem on the stick",
        why="it gets the size that fits the encrypted card",
        do=_make_filesystem,
        present=_filesystem_present,
    ),
    Step(
        id="copy",
        title="Copy the root to the stick while the system stays in use",
        why="most of the work is done before any service has to stop",
        do=_copy,
        bytes=used,
    ),
    Step(
        id="prepare-boot",
        title="Build the initramfs that opens both roots",
        why="one image serves both reboots",
        do=_prepare_boot,
        present=_boot_prepared,
        bytes=lambda plan: 100e6,
    ),
    Step(
        id="read-back",
        title="Read the copy back while the system stays in use",
        why="what has not changed by then need not be read while services are stopped",
        do=_read_back,
        bytes=used_read,
    ),
)

SETTLING = (
    Step(
        id="stop-services",
        title="Stop the services and hold the root read-only",
        why="what they wrote until now will be on the encrypted root",
        do=_stop_services,
        bytes=lambda plan: 10e6,
    ),
    Step(
        id="settle",
        title="Copy what has changed meanwhile",
        why="the copy is now the same as the root that nothing writes to",
        do=_settle,
        bytes=lambda plan: plan.used / 10,
    ),
    Step(
        id="compare-stage",
        title="Compare the stick with the card to the last attribute",
        why="the card's root is only given up for a copy that is proven whole",
        do=_compare,
        bytes=lambda plan: plan.used / 10,
    ),
)

TRYING = (
    Step(
        id="arm-stage",
        title="Prepare one trial boot from the stick",
        why="the HSM or TPM has to unlock a root in a real boot before anything is destroyed",
        do=_arm,
    ),
)
