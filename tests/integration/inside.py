"""Tests of single steps' tools on a real kernel with real dm-crypt, ext4 and FAT.

Collected only inside user-mode Linux (see test_real_devices.py): /dev/ubda and /dev/ubdb are
two empty disks there. Not named test_*: pytest on the host has no device-mapper.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import struct
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import IO

import pytest

from crfs import (
    blocks,
    dress,
    fatfile,
    journal,
    luks,
    probe,
    proof,
    recovery,
    runner,
    swapfiles,
    tpm2,
    trees,
)
from crfs.errors import CommandError, StickError
from crfs.model import Cipher
from crfs.rehearsal.tpm import TpmProcess
from crfs.steps import base, finish
from tests.unit.pi import plan

pytestmark = pytest.mark.integration
CARD, STICK = "/dev/ubda", "/dev/ubdb"
KEY = bytes(range(256)) * 2
UUID = "11111111-2222-4333-8444-555555555555"


def sh(line: str) -> str:
    return subprocess.run(
        ["sh", "-ec", line], check=True, capture_output=True, text=True
    ).stdout.strip()


def as_udev(*devices: str) -> None:
    """Note what is on the devices where udev would, which is where lsblk looks."""
    for device in devices:
        number = Path(f"/sys/class/block/{Path(device).name}/dev").read_text().strip()
        sh(
            f"mkdir -p /run/udev/data; exec >/run/udev/data/b{number}; echo I:1;"
            f"blkid -p -o udev {device} | sed 's/^/E:/'"
        )


@pytest.fixture
def opened(request: pytest.FixtureRequest) -> Iterator[str]:
    """The stick as an open mapping of the cipher that the test asks for."""
    cipher: Cipher = getattr(request, "param", luks.ADIANTUM_12)
    luks.format_device(STICK, UUID, cipher, KEY, "crfs-stage")
    luks.open_mapping(STICK, "cryptstage", UUID, KEY)
    yield "/dev/mapper/cryptstage"
    luks.close_mapping("cryptstage")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A fresh ext4 on the card, mounted."""
    sh(f"mkfs.ext4 -q -F {CARD}")
    target = tmp_path / "card"
    target.mkdir()
    sh(f"mount {CARD} {target}")
    yield target
    sh(f"umount {target}")


@pytest.mark.parametrize("opened", [luks.AES, luks.ADIANTUM_12, luks.ADIANTUM_20], indirect=True)
def test_mapping_opens_with_its_key_only(opened: str) -> None:
    assert probe.luks_of_mapping("cryptstage") == UUID
    assert probe.blkid(STICK, "UUID") == UUID
    assert luks.key_opens(STICK, KEY)
    assert not luks.key_opens(STICK, KEY[:-1])
    assert "sector size:  4096" in sh("cryptsetup status cryptstage")


def test_erased_stick_opens_with_no_key(opened: str) -> None:
    luks.close_mapping("cryptstage")
    luks.erase(STICK)
    assert probe.blkid(STICK, "TYPE") == ""
    assert not luks.key_opens(STICK, KEY)


def test_recovery_key_opens_until_it_is_removed(opened: str) -> None:
    key = recovery.fresh()
    assert luks.recovery_keyslots(STICK) == []
    luks.add_recovery_key(STICK, KEY, key)
    assert luks.recovery_keyslots(STICK) == ["1"]
    assert luks.key_opens(STICK, key.encode())
    assert not luks.key_opens(STICK, recovery.fresh().encode())
    assert not luks.key_opens(STICK, b"")
    luks.remove_recovery_keys(STICK, KEY)
    assert luks.recovery_keyslots(STICK) == []
    assert not luks.key_opens(STICK, key.encode())
    assert luks.key_opens(STICK, KEY)


def test_header_comes_back_from_its_backup(opened: str, tmp_path: Path) -> None:
    assert luks.named_partition(STICK) == ""
    luks.name_partition(STICK, "cafe0001-02")
    backup = tmp_path / "header"
    luks.back_up_header(STICK, backup)
    assert backup.stat().st_mode & 0o777 == 0o400
    assert luks.named_partition(str(backup)) == "cafe0001-02"
    sh(f"dd if=/dev/zero of={STICK} bs=1M count=16 conv=fsync status=none")
    assert not luks.key_opens(STICK, KEY)
    luks.restore_header(STICK, backup)
    assert luks.key_opens(STICK, KEY)
    assert probe.blkid(STICK, "UUID") == UUID


def test_header_of_the_card_is_kept_on_the_stick() -> None:
    """Between the stick's own header and its data, where neither disturbs the other."""
    other = "11111111-2222-4333-8444-666666666666"
    luks.format_device(STICK, UUID, luks.ADIANTUM_12, KEY, "crfs-stage", luks.STAGE_DATA_OFFSET)
    luks.format_device(CARD, other, luks.ADIANTUM_12, KEY, "cryptrfs")
    luks.name_partition(CARD, "cafe0001-02")
    probe.RUN.mkdir(exist_ok=True)
    luks.open_mapping(STICK, "cryptstage", UUID, KEY)
    try:
        sh("mkfs.ext4 -q -F /dev/mapper/cryptstage")
        luks.keep_header(CARD, STICK)
        sh("e2fsck -fn /dev/mapper/cryptstage")
    finally:
        luks.close_mapping("cryptstage")
    assert luks.key_opens(STICK, KEY)
    sh(f"dd if=/dev/zero of={CARD} bs=1M count=16 conv=fsync status=none")
    assert not luks.bring_back_header(CARD, STICK, b"another key"), "not a copy that is no use"
    assert not luks.key_opens(CARD, KEY)
    assert luks.bring_back_header(CARD, STICK, KEY)
    assert luks.key_opens(CARD, KEY)
    assert luks.named_partition(CARD) == "cafe0001-02"
    assert probe.blkid(CARD, "UUID") == other
    assert list(probe.RUN.iterdir()) == []
    luks.erase(STICK)
    with open(STICK, "rb") as disk:
        assert set(disk.read(luks.STAGE_DATA_OFFSET)) == {0}


def test_swap_files_are_made_anew(folder: Path, tmp_path: Path) -> None:
    """rsync leaves them out, whatever their names; mkswap and the kernel take the new ones."""
    names = ["swap", "swap [1]*", "back\\slash?"]
    for name in names:
        content = b"piece of memory\n" * 2**17
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o600)
        sh(f"mkswap --label pi {shlex.quote(str(folder / name))}")
    (folder / "swap 1").write_text("matched by one of the names as a pattern")
    copy = tmp_path / "copy"
    trees.copy(folder, copy, [f"/{name}" for name in names])
    assert sorted(os.listdir(copy)) == ["lost+found", "swap 1"]

    root = tmp_path / "root"
    (root / str(folder).lstrip("/")).mkdir(parents=True)
    planned = dataclasses.replace(plan(), swap_files=tuple(str(folder / name) for name in names))
    swapfiles.make(root, planned)
    for name in names:
        old, new = str(folder / name), str(root / str(folder / name).lstrip("/"))
        assert probe.blkid(new, "UUID") == probe.blkid(old, "UUID") != ""
        assert probe.blkid(new, "LABEL") == "pi"
        assert os.stat(new).st_size == os.stat(old).st_size
        assert b"memory" not in Path(new).read_bytes()
    sh(f"cp --sparse=never {shlex.quote(new)} {folder}/new; swapon {folder}/new")
    try:
        assert [one.path for one in probe.swaps()] == [f"{folder}/new"]
    finally:
        sh(f"swapoff {folder}/new")


def test_hostile_stick() -> None:
    """Labels that look like something else, another's header with our UUID, names of mappings."""
    label = "x' /dev/sda"
    luks.format_device(STICK, UUID, luks.ADIANTUM_12, b"another key", "crfs-stage\x1b[2J")
    sh(f"mkfs.ext4 -q -F -L '$(reboot)' {CARD}")
    sh(f'cryptsetup config --label "{label}" {STICK}')
    as_udev(CARD, STICK)
    found = {disk.path: disk for disk in probe.disks()}
    assert found[STICK].label == label
    assert found[CARD].label == "$(reboot)"
    assert probe.find_stage(UUID).path == STICK
    assert not luks.key_opens(STICK, KEY), "it is not ours, whatever it says"
    with pytest.raises(CommandError):
        luks.open_mapping(STICK, "cryptstage", UUID, KEY)
    luks.format_device(CARD, UUID, luks.ADIANTUM_12, KEY, "crfs-stage")
    with pytest.raises(StickError, match="found 2 times"):
        probe.find_stage(UUID)
    for name in ("a b", "new\nline", "/dev/ubda"):
        encoded = "".join(f"\\x{byte:02x}" for byte in name.encode())
        sh(f"echo '0 8 linear {CARD} 0' | dmsetup create --manglename=none 'n{encoded}'")
        try:
            below = next(disk for disk in probe.disks() if disk.path == CARD)
            assert [child.kind for child in below.children] == ["dm"]
            assert below.size == 256 * 2**20
        finally:
            sh(f"dmsetup remove --manglename=none 'n{encoded}'")


def run_keyscript(
    folder: Path, name: str, environment: Mapping[str, str], word: str, path: Path
) -> subprocess.CompletedProcess[bytes]:
    """The keyscript as in the initramfs, with `path` where it says `word`."""
    text = (dress.scripts() / "zk_get_key").read_text().replace(word, str(path))
    text = text.replace("/scripts/crfs-functions", str(dress.scripts() / "functions"))
    (folder / "keyscript").write_text(text)
    return subprocess.run(
        ["busybox", "sh", str(folder / "keyscript")],
        env={**environment, "CRYPTTAB_SOURCE": STICK, "CRYPTTAB_NAME": name},
        capture_output=True,
        check=True,
    )


def test_the_keyscript_opens_a_header_with_the_tpm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keyscript as in the initramfs: real header, real token, swtpm."""
    script = dress.scripts() / dress.TPM2_SCRIPT
    with TpmProcess(tmp_path) as tpm, tpm.on_this_machine() as environment:
        monkeypatch.setattr(runner, "ENVIRONMENT", {**runner.ENVIRONMENT, **environment})
        key = tpm2.make_key()
        sealed = tpm2.seal(key)
        luks.format_device(STICK, UUID, luks.AES, key, "crfs-stage")
        luks.add_recovery_key(STICK, key, recovery.fresh())
        tpm2.attach(STICK, sealed)
        assert tpm2.attached(STICK, sealed)
        assert tpm2.unseal(tpm2.sealed_key(STICK)) == key
        done = run_keyscript(tmp_path, "cryptstage", environment, "/scripts/crfs-tpm2", script)
    assert done.stdout == key
    assert probe.unlocked_by_itself("cryptstage")
    assert luks.key_opens(STICK, done.stdout)
    luks.erase(STICK)


def test_a_partition_table_over_the_header_is_undone_by_the_keyscript(tmp_path: Path) -> None:
    """raspi-config's "Expand Filesystem" takes the mapping's partition for a disk."""
    luks.format_device(STICK, UUID, luks.AES, KEY, "cryptrfs")
    sh(f"printf 'o\\nn\\np\\n1\\n\\n\\nw\\n' | fdisk {STICK} >&2 || true")
    assert not luks.key_opens(STICK, KEY)
    (tmp_path / "key").write_bytes(KEY)
    (tmp_path / "zkunlockifs").write_text(f"#!/bin/sh\ncat {tmp_path}/key\n")
    (tmp_path / "zkunlockifs").chmod(0o755)
    tool = tmp_path / "zkunlockifs"
    done = run_keyscript(tmp_path, "cryptrfs", os.environ, "/sbin/zkunlockifs", tool)
    assert done.stdout == KEY
    assert b"was brought back" in done.stderr
    assert luks.key_opens(STICK, KEY)
    again = subprocess.run(["cryptsetup", "isLuks", STICK], check=False)
    assert again.returncode == 0


def test_block_copy_is_the_same_filesystem(opened: str, tmp_path: Path) -> None:
    sh(f"mkfs.ext4 -q -b 4096 {opened} 100M; mkdir -p {tmp_path}/a; mount {opened} {tmp_path}/a")
    sh(f"cp -a /usr/lib/python3/dist-packages/sh.py /etc/ssl {tmp_path}/a")
    sh(f"chattr +i {tmp_path}/a/sh.py")
    sh(f"umount {tmp_path}/a")
    ranges = blocks.layout(opened).used
    assert blocks.total(ranges) < 60e6
    blocks.copy(opened, CARD, ranges, 0, lambda position, done: None)
    blocks.compare(opened, CARD, ranges, lambda position, done: None)
    sh(f"e2fsck -fn {CARD}")
    sh(f"mkdir -p {tmp_path}/b; mount -o ro {opened} {tmp_path}/a; mount -o ro {CARD} {tmp_path}/b")
    found = proof.compare(
        tmp_path / "a", tmp_path / "b", lambda name: False, lambda done: None, proof.Proven()
    )
    sh(f"umount {tmp_path}/a {tmp_path}/b")
    assert found.entries > 100
    assert found.examples == []


def test_a_copy_without_what_nobody_uses_is_whole_and_grows(opened: str, tmp_path: Path) -> None:
    """Unused parts of inode tables and the journal's body hold noise on the card, and may."""
    sh(f"head -c 256M /dev/urandom > {CARD} || true")
    options = "lazy_itable_init=1,nodiscard,resize=60000"
    sh(f"mkfs.ext4 -q -b 4096 -N 40000 -J size=8 -E {options} {opened} 100M")
    folder = tmp_path / "a"
    folder.mkdir()
    sh(f"mount -o noinit_itable {opened} {folder}; cp -a /etc/ssl {folder}")
    sh(f"for i in $(seq 2000); do echo $i > {folder}/$i; done; umount {folder}")
    found = blocks.layout(opened)
    assert found.size == blocks.size_of(opened) == 100 * 2**20
    used = blocks.total(found.used)
    # 40000 inodes of 256 bytes and 8 MiB of journal are not in it.
    assert used < 15e6, used
    assert used + blocks.total(found.free) == found.size
    blocks.copy(opened, CARD, found.used, 0, lambda position, done: None)
    sh(f"e2fsck -fn {CARD}")
    expected = sh(f"mount -o ro {opened} {folder}; cd {folder}; find . -type f | sort | md5sum")
    sh(f"umount {folder}; mount {CARD} {folder}")
    times = os.stat(folder)
    # 10 blocks more than full groups: they may be too few for a group of their own.
    blocks.grow(str(folder), 128 * 2**20 + 40960)
    assert 0 <= blocks.size_of(CARD) - 128 * 2**20 <= 40960
    blocks.grow(str(folder), 200 * 2**20)
    assert blocks.size_of(CARD) == 200 * 2**20
    assert os.stat(folder).st_mtime_ns == times.st_mtime_ns
    for number in range(2000, 12000):  # into tables that the kernel has to clear first
        (folder / f"more{number}").touch()
    sh(f"rm {folder}/more*; sync")
    assert sh(f"cd {folder}; find . -type f | sort | md5sum") == expected
    sh(f"umount {folder}; e2fsck -fn {CARD}")


def test_what_another_program_has_grown_over_is_overwritten(
    opened: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the old root may be readable, whoever enlarges the filesystem before crfs."""
    secret = b"SECRET OF THE PLAIN ROOT" * 1000
    whole = blocks.device_size(STICK)
    with open(STICK, "r+b") as disk:
        disk.seek(luks.DATA_OFFSET + 100 * 2**20)
        while disk.tell() < whole - len(secret):
            disk.write(secret)
    sh(f"blockdev --flushbufs {STICK}")
    sh(f"mkfs.ext4 -q -b 4096 -E nodiscard,resize=60000 {opened} 100M; mkdir {tmp_path}/a")
    folder = f"{tmp_path}/a"
    sh(f"mount -o init_itable=0 {opened} {folder}")
    blocks.grow(folder, 150 * 2**20)
    monkeypatch.setattr(finish, "ROOT_FOLDER", folder)
    monkeypatch.setattr(finish, "mapping", lambda name: opened)
    record = SimpleNamespace(cleared=100 * 2**20)
    context = SimpleNamespace(
        record=record,
        root_partition=lambda: SimpleNamespace(path=STICK, size=whole),
        report=lambda done, everything: None,
        save=lambda **changes: vars(record).update(changes),
        say=print,
    )
    finish._grow(context)  # type: ignore[arg-type]
    assert record.cleared >= blocks.size_of(opened) > 200 * 2**20
    assert probe.usage(folder).free > 100 * 2**20
    sh(f"umount {folder}; e2fsck -fn {opened}; blockdev --flushbufs {opened} {STICK}")
    left = 0
    with open(STICK, "rb") as disk:
        disk.seek(luks.DATA_OFFSET + 100 * 2**20)
        while piece := disk.read(2**20):
            left += piece.count(secret[:24])
    # What ext4 keeps; the second group's inode bitmap, which nobody has needed yet; a block that it
    # held back.
    assert left <= (finish._SPARED + 2) * luks.BLOCK / 24


def test_trees_copy_everything_there_is(opened: str, folder: Path, tmp_path: Path) -> None:
    sh(
        f"cd {folder}; echo one > a; ln a b; setfattr -n user.x -v y a; setfacl -m u:1000:r a;"
        "cp /bin/true t; setcap cap_net_raw+ep t; truncate -s 10M hole; echo x >> hole;"
        "mkfifo p; ln -s nowhere l; mkdir d; chmod 2751 d; touch d/e;"
        "chattr +i d/e; chattr +a hole;"
        "touch -d '1960-01-02 03:04:05.678901234' old; printf x > \"$(printf 'n\\377\\nm')\""
    )
    sh(f"mkfs.ext4 -q -b 4096 {opened}; mkdir {tmp_path}/stage; mount {opened} {tmp_path}/stage")
    stage = tmp_path / "stage"
    try:
        time.sleep(2.1)  # what has only just changed counts as changed
        copied = proof.Copied()
        for sums in (copied.add, None):  # the second pass meets immutable files
            trees.copy(folder, stage, sums=sums)
            trees.copy_flags(folder, stage, (name for name, _, _ in trees.walk(folder)))
            found = proof.compare(
                folder, stage, lambda name: False, lambda done: None, proof.Proven()
            )
            assert found.examples == []
            assert found.entries == 12
        assert os.stat(stage / "hole").st_blocks < 100
        pairs = {pair.name: pair for pair in proof._pairs(folder, stage)}
        known = [pair for pair in pairs.values() if pair.bytes and copied.knows(pair, {})]
        told = {pair.name for pair in known if copied.is_whole(pair)}
        assert {b"t", b"hole", b"n\xff\nm"} < told
        (folder / "a").write_text("two\n")
        found = proof.compare(folder, stage, lambda name: False, lambda done: None, proof.Proven())
        assert any("other contents" in one for one in found.examples)
    finally:
        sh(f"umount {stage}")


def test_settling_brings_what_changed_since_it_was_proven(folder: Path) -> None:
    """Only the names that are not proven are given to rsync; that has to be enough."""
    source, copy = folder / "source", folder / "copy"
    source.mkdir()
    sh(
        f"cd {source}; mkdir -p still/below moved/below/deep gone/below full a-file;"
        "for one in still/below/x moved/below/y moved/below/deep/z gone/below/v full/w a-folder"
        " linked edited mode 'times' xattr flag swapped own one1 two1 '#note';"
        " do echo $one > $one; done;"
        "ln linked second; ln own own2; ln one1 one2; ln two1 two2; mkdir '#x' ';y';"
        "ln -s one link; touch -d 2001-01-01 full"
    )
    trees.copy(source, copy)
    time.sleep(2.1)
    proven, emptied = proof.prove(source, copy, lambda name: name == b"swapped", lambda done: None)
    assert emptied == 0
    everything = [name for name, _, _ in trees.walk(source)]
    assert len(proven) == len(everything)  # the top instead of what was skipped
    sh(
        f"cd {source}; mv moved renamed; rm -r gone; rmdir a-file; echo now > a-file;"
        "rm a-folder; mkdir a-folder; echo new > a-folder/new; ln linked third; rm second;"
        "echo more >> edited; chmod 600 mode; touch times; setfattr -n user.x -v y xattr;"
        "chattr +d flag; ln -sf two link; rm full/w; touch -d 2001-01-01 full;"
        "echo -n kept > ' odd\\name [1]*'; mkdir -p still/empty; echo 1 > '#x/new'; mkdir ';y/z';"
        "echo more >> '#note'; cp -p own2 t; mv t own2; echo longer > own2;"
        "mv one2 t; mv two2 one2; mv t two2; echo TIMES > times; touch -r still/below/x times"
    )
    names = proof.unproven(source, copy, lambda name: False, proven)
    assert not {b"still/below", b"still/below/x"} & set(names)
    trees.copy(source, copy, [], names)
    trees.copy_flags(source, copy, names)
    for known in (proven, proof.Proven()):
        found = proof.compare(source, copy, lambda name: False, lambda done: None, known)
        assert found.examples == []


def test_blank_overwrites_what_is_not_blank() -> None:
    with open(CARD, "r+b") as disk:
        disk.write(bytes(8 * 2**20))
        disk.seek(0)
        disk.write(b"secret" * 1000)
    wrote = blocks.blank(CARD, [(0, 8 * 2**20)], 0, lambda position, done: None)
    assert wrote == blocks.PIECE
    with open(CARD, "rb") as disk:
        assert blocks.is_blank(disk.read(8 * 2**20))


def test_journal_and_boot_files_on_fat(tmp_path: Path) -> None:
    sh(f"mkfs.vfat {CARD}; mount -t vfat {CARD} {tmp_path}")
    try:
        fatfile.replace(tmp_path / "config.txt", b"old")
        fatfile.replace(tmp_path / "config.txt", b"new" * 10000)
        assert (tmp_path / "config.txt").read_bytes() == b"new" * 10000
        assert os.listdir(tmp_path) == ["config.txt"]
        book = journal.Journal(tmp_path)
        assert book.read() is None
    finally:
        sh(f"umount {tmp_path}")
    sh(f"fsck.vfat -n {CARD}")


def test_a_cut_in_a_rename_empties_the_new_name_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fsck.vfat empties the second of two names with the same clusters."""
    sh(f"mkfs.vfat -F 32 -s 8 {CARD}; mount -t vfat {CARD} {tmp_path}")
    config = tmp_path / "config.txt"
    for name in [f"removed-{number}-later.tmp" for number in range(9)]:
        (tmp_path / name).touch()
    config.write_bytes(b"old" * 1000)
    sh(f"cd {tmp_path}; rm removed*; touch one; sync")
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        names = os.listdir(tmp_path)
        assert names.index(self.name) > names.index(config.name), names
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        fatfile.replace(config, b"new" * 1000)
    assert sorted(os.listdir(tmp_path)) == ["config.txt", "one"]
    # As a cut between the two sectors leaves it.
    *fillers, left = fatfile._behind(config)
    assert len(fillers) > 2
    left.write_bytes(b"new" * 1000)
    sh(f"rm {' '.join(map(str, fillers))}; umount {tmp_path}")
    with open(CARD, "r+b") as disk:
        root, size = _root_folder(disk)
        disk.seek(root)
        folder = bytearray(disk.read(size))
        old, new = (found.start() for found in re.finditer(rb"CONFIG  TXT|CO\w+~\dCRF", folder))
        for place in (slice(20, 22), slice(26, 32)):
            folder[old + place.start : old + place.stop] = folder[
                new + place.start : new + place.stop
            ]
        disk.seek(root)
        disk.write(folder)
    sh(f"blockdev --flushbufs {CARD}; mount -t vfat {CARD} {tmp_path}")
    fatfile.remove(left)
    assert left.exists(), "its clusters would be free, and in use"
    sh(f"umount {tmp_path}; fsck.vfat -a {CARD} || true; mount -t vfat {CARD} {tmp_path}")
    assert config.read_bytes() == b"new" * 1000
    fatfile.replace(config, b"last")
    fatfile.remove(left)
    assert not left.exists()
    sh(f"umount {tmp_path}; fsck.vfat -n {CARD}")


def _root_folder(disk: IO[bytes]) -> tuple[int, int]:
    """Where the root folder of a FAT32 begins, and the size of its first cluster, in bytes."""
    disk.seek(0)
    boot = disk.read(512)
    reserved, fats = struct.unpack_from("<H", boot, 14)[0], boot[16]
    return 512 * (reserved + fats * struct.unpack_from("<I", boot, 36)[0]), 512 * boot[13]


@pytest.mark.parametrize("prepared", [False, True])
def test_a_cut_does_not_end_a_folder_too_early(tmp_path: Path, prepared: bool) -> None:
    """A name lies in two sectors, and the second only gets through. Without room that is a gap."""
    sh(f"mkfs.vfat -F 32 -s 8 {CARD}; mount -t vfat {CARD} {tmp_path}")
    for number in range(14):  # of the 16 entries of a sector
        (tmp_path / f"FILE{number}").touch()
    if prepared:
        fatfile.make_room(tmp_path)
        assert len(os.listdir(tmp_path)) == 14
    sh(f"umount {tmp_path}")
    with open(CARD, "rb") as disk:
        root, size = _root_folder(disk)
        disk.seek(root)
        lost = disk.read(512)
    sh(f"mount -t vfat {CARD} {tmp_path}; touch {tmp_path}/good-config.txt.crfs-new")
    sh(f"umount {tmp_path}")
    with open(CARD, "r+b") as disk:
        disk.seek(root)
        disk.write(lost)
        disk.seek(root)
        folder = disk.read(size)
    first_bytes = folder[::32]
    assert first_bytes[16] not in (0, 0xE5), "nothing of the name is in the second sector"
    assert (0 in first_bytes[:16]) is not prepared


def test_a_bind_shares_no_mounts(tmp_path: Path) -> None:
    """With systemd all mounts are shared: what the user mounts meanwhile is not ours to unmount."""
    live, shown = tmp_path / "live", tmp_path / "shown"
    sh(f"mkdir -p {live} {shown}; mount -t tmpfs live {live}; mount --make-shared {live}")
    sh(f"mkdir {live}/media")
    try:
        base.bind(str(live), shown)
        sh(f"mount -t tmpfs media {live}/media; touch {live}/media/file")
        assert os.listdir(shown / "media") == []
        base.unmount(shown)
        assert os.listdir(live / "media") == ["file"]
    finally:
        sh(f"umount -R {live}")
