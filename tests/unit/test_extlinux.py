"""extlinux.conf: read as U-Boot reads it, edited so that it can be taken back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crfs import bootconfig, extlinux, fatfile, probe
from crfs.bootconfig import ROOT, STAGE
from crfs.commands import extlinux_plan
from crfs.errors import LayoutError
from crfs.extlinux import Extlinux
from tests.unit.hostile import file_text
from tests.unit.pi import FakePi, plan, snapshot

# In the form of L4T 32 on a Nano: the kernel's own line is filled in by the loader.
NANO = """TIMEOUT 30
DEFAULT primary

MENU TITLE L4T boot options

LABEL primary
      MENU LABEL primary kernel
      LINUX /boot/Image
      INITRD /boot/initrd
      APPEND ${cbootargs} quiet root=/dev/mmcblk0p1 rw rootwait console=ttyS0,115200n8

# an entry that somebody keeps for bad days:
#   LABEL backup
#      LINUX /boot/Image.backup
"""
# As u-boot-menu of Debian writes it, on a boot partition of its own.
DEBIAN = """## /extlinux/extlinux.conf
default l0
menu title U-Boot menu
prompt 0
timeout 50

label l0
\tmenu label Debian GNU/Linux 12 6.1.0-18-arm64
\tlinux /vmlinuz-6.1.0-18-arm64
\tinitrd /initrd.img-6.1.0-18-arm64
\tfdtdir /dtb-6.1.0-18-arm64/
\tappend root=UUID=5f4e rw console=ttyS2

label l0r
\tlinux /vmlinuz-6.1.0-18-arm64
\tappend root=UUID=5f4e single"""

_lines = st.sampled_from(
    [*NANO.split("\n"), *DEBIAN.split("\n"), "DEFAULT", "DEFAULT  primary ", "ontimeout l0",
     "APPEND", "LABEL", "LABEL primary", "LINUX x", "#", "frobnicate 1", "FDT /a.dtb",
     "\tDEFAULT #", "APPEND a\r"]
)  # fmt: skip
files = (st.lists(_lines, max_size=20).map("\n".join) | file_text).filter(
    lambda text: "# crfs:" not in text
)


def test_reading() -> None:
    nano = extlinux.read(NANO)
    assert (nano.default, [one.name for one in nano.entries]) == ("primary", ["primary"])
    assert nano.chosen.value("INITRD") == "/boot/initrd"
    debian = extlinux.read(DEBIAN)
    assert (debian.default, [one.name for one in debian.entries]) == ("l0", ["l0", "l0r"])
    assert extlinux.original_cmdline(DEBIAN) == "root=UUID=5f4e rw console=ttyS2"


@pytest.mark.parametrize(
    ("text", "default", "append"),
    [
        ("LABEL a\nLINUX k\nAPPEND one\nTIMEOUT 3\nAPPEND two\nDEFAULT a", "a", "one"),
        ("DEFAULT b\nDEFAULT a\nLABEL a\nLINUX k\nAPPEND x", "a", "x"),
        ("DEFAULT b\nONTIMEOUT a\nLABEL a\nLINUX k\nAPPEND x", "a", "x"),
        ("default a\n  label a\n\tkernel k\n\n# no\n\tappend x\n\tappend y z", "a", "y z"),
        ("DEFAULT a\nLABEL a\nLINUX old\nAPPEND old\nLABEL a\nLINUX k\nAPPEND new", "a", "new"),
    ],
)
def test_what_counts(text: str, default: str, append: str) -> None:
    found = extlinux.read(text)
    assert (found.default, found.chosen.value("APPEND")) == (default, append)


@pytest.mark.parametrize(
    "text",
    ["", "LABEL a\nLINUX k\nAPPEND x", "DEFAULT b\nLABEL a\nLINUX k\nAPPEND x",
     "DEFAULT a\nLABEL a\nAPPEND x", "DEFAULT a\nLABEL a\nLINUX k", "#DEFAULT a\nLABEL a",
     "LABEL\nLINUX k\nAPPEND x", "DEFAULT\nLABEL\nLINUX k\nAPPEND x"],
)  # fmt: skip
def test_without_a_complete_default_entry_it_is_refused(text: str) -> None:
    with pytest.raises(LayoutError, match="no complete entry"):
        extlinux.with_entry(text, "crfs-root", "root=x")


def test_entry_for_the_encrypted_root() -> None:
    config = extlinux.read(extlinux.final(DEBIAN))
    assert config.default == "cryptrfs"
    assert dict(config.chosen.settings) == {
        "MENU": "LABEL cryptrfs",
        "LINUX": "/vmlinuz-6.1.0-18-arm64",
        "INITRD": "/crfs-initramfs",
        "FDTDIR": "/dtb-6.1.0-18-arm64/",
        "APPEND": "rw console=ttyS2 panic=10 root=/dev/mapper/cryptrfs",
    }
    assert extlinux.read(extlinux.final(NANO)).chosen.value("INITRD") == "/boot/crfs-initramfs"
    assert "${cbootargs} quiet" in extlinux.read(extlinux.final(NANO)).chosen.value("APPEND")


def test_users_own_lines_stay_where_they_are() -> None:
    added = [line for line in extlinux.final(NANO).split("\n") if line not in NANO.split("\n")]
    assert added[:2] == ["# crfs: was DEFAULT primary", "DEFAULT cryptrfs"]
    assert (added[2], added[-1]) == (bootconfig.BEGIN, bootconfig.END)


@given(files, st.sampled_from(["crfs-stage", "cryptrfs"]))
@example(NANO, "cryptrfs")
@example(DEBIAN, "cryptrfs")
@example("LABEL a\nLINUX k\nAPPEND x\nDEFAULT a", "cryptrfs")
def test_entry_is_taken_out_exactly(text: str, name: str) -> None:
    assert extlinux.without_entry(text) == text
    try:
        changed = extlinux.with_entry(text, name, "root=/dev/mapper/cryptrfs")
    except LayoutError:
        return
    assert extlinux.without_entry(changed) == text
    assert extlinux.with_entry(changed, name, "root=/dev/mapper/cryptrfs") == changed
    before, after = extlinux.read(text), extlinux.read(changed)
    assert after.default == name
    assert after.entries[: len(before.entries)] == before.entries, "the user's entries stay"
    assert after.chosen.value("APPEND") == "root=/dev/mapper/cryptrfs"
    assert after.chosen.value("LINUX") == before.chosen.value("LINUX", "KERNEL")


@given(file_text)
def test_any_file_is_read(text: str) -> None:
    found = extlinux.read(text)
    assert all(entry.value("APPEND") is not None for entry in found.entries)


# --- during a migration --------------------------------------------------------------------------


def make(folder: Path, text: str = NANO) -> Extlinux:
    boot = Extlinux(folder, plan(str(folder), tryboot=False))
    boot.config.parent.mkdir()
    boot.config.write_bytes(bootconfig.encode(text))
    boot.own.mkdir()
    boot.initramfs.write_bytes(b"our image")
    return boot


def put_back(boot: Extlinux) -> None:
    """What the initramfs of a trial has to do."""
    good = boot.own / "good-extlinux.conf"
    text = bootconfig.decode(boot.config.read_bytes())
    if good.exists() and "-trial" in extlinux.read(text).default:
        boot.config.write_bytes(good.read_bytes())


@pytest.mark.parametrize("target", [STAGE, ROOT])
def test_trial_can_be_put_back(tmp_path: Path, target: str) -> None:
    boot = make(tmp_path)
    for _ in range(2):  # armed twice without a boot in between
        boot.arm(target)
    line = extlinux.read(boot.config.read_text()).chosen.value("APPEND")
    assert f"crfs.boot={target}" in line and "crfs.oneshot=1" in line and "crfs.trial=1" in line
    assert not boot.is_default(target)
    put_back(boot)
    assert boot.config.read_text() == NANO


def test_whole_journey_and_the_way_back(tmp_path: Path) -> None:
    boot = make(tmp_path)
    for target in (STAGE, ROOT):
        boot.arm(target)
        put_back(boot)
        boot.make_default(target)
        assert boot.is_default(target)
        assert "crfs.trial" not in boot.config.read_text()
    boot.make_final()
    assert boot.config.read_text() == extlinux.final(NANO)
    boot.remove_own()
    assert list(boot.own.iterdir()) == []


@given(
    st.lists(st.sampled_from(["arm", "default", "boot", "final"]), max_size=5),
    st.sampled_from([NANO, DEBIAN, DEBIAN.replace("6.1", "\udcff")]),
)
def test_restore_is_byte_for_byte(
    new_folder: Callable[[], Path], moves: list[str], text: str
) -> None:
    folder = new_folder()
    boot = make(folder, text)
    before = snapshot(folder)
    del before["crfs-initramfs"]
    acts: dict[str, Callable[[], None]] = {
        "arm": lambda: boot.arm(STAGE),
        "default": lambda: boot.make_default(STAGE),
        "boot": lambda: put_back(boot),
        "final": boot.make_final,
    }
    for move in moves:
        acts[move]()
    for _ in range(2):
        boot.restore()
        boot.remove_own()
    assert snapshot(folder) == before


@pytest.mark.parametrize("act", ["arm", "make_default"])
def test_every_cut_leaves_a_file_that_boots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    """There is one write that switches, and what it names is there before."""
    boot = make(tmp_path)
    seen: list[str] = []
    replace = fatfile.replace

    def watched(path: Path, content: bytes) -> None:
        seen.append(extlinux.read(boot.config.read_text()).chosen.name)
        replace(path, content)

    monkeypatch.setattr(fatfile, "replace", watched)
    getattr(boot, act)(STAGE)
    assert set(seen) == {"primary"}
    assert extlinux.read(boot.config.read_text()).chosen.name.startswith("crfs-stage")


# --- crfs encrypt --------------------------------------------------------------------------------


@pytest.fixture
def jetson(pi: FakePi, monkeypatch: pytest.MonkeyPatch) -> FakePi:
    """A Jetson: no FAT partition with a config.txt, /boot inside the root."""
    (pi.boot / "config.txt").unlink()
    del pi.mounts[str(pi.boot)]
    conf = pi.boot / "extlinux/extlinux.conf"
    conf.parent.mkdir()
    conf.write_text(NANO)
    model = pi.folder / "proc/device-tree/model"
    model.write_bytes(b"NVIDIA Jetson Nano Developer Kit\0")
    monkeypatch.setattr(probe, "EXTLINUX", conf)
    monkeypatch.setattr(extlinux_plan, "_is_apart", lambda conf: False)
    return pi


def test_encrypt_is_refused_where_boot_lies_inside_the_root(jetson: FakePi) -> None:
    result = jetson.refuses(["encrypt", "--yes"], 12, "/boot lies inside the root")
    assert "crfs explain boards" in result.err


def test_encrypt_is_refused_on_a_boot_partition_too(
    jetson: FakePi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extlinux_plan, "_is_apart", lambda conf: True)
    jetson.refuses(["encrypt", "--yes"], 14, "not carry it out yet")


def test_dry_run_shows_the_plan_and_the_reason(jetson: FakePi) -> None:
    before = snapshot(jetson.boot)
    result = jetson.crfs("encrypt", "--dry-run")
    assert result.code == 12
    for words in (
        "Board: Jetson Nano",
        "/boot: inside the root",
        "-DEFAULT primary",
        "+DEFAULT cryptrfs",
        "+ INITRD /boot/crfs-initramfs",
        "nothing was changed",
    ):
        assert words in result.out, words
    assert snapshot(jetson.boot) == before
    assert not jetson.effects


def test_dry_run_of_a_file_without_an_entry(jetson: FakePi) -> None:
    (jetson.boot / "extlinux/extlinux.conf").write_text("TIMEOUT 30\n")
    jetson.refuses(["encrypt", "--dry-run"], 12, "no complete entry")


def test_a_raspberry_pi_is_not_taken_for_one(pi: FakePi, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = pi.boot / "extlinux.conf"
    conf.write_text(NANO)
    monkeypatch.setattr(probe, "EXTLINUX", conf)
    assert pi.crfs("encrypt", "--dry-run").code == 0


def test_boot_files_inside_the_root_are_noticed(tmp_path: Path) -> None:
    assert not extlinux_plan._is_apart(Path("/etc/passwd"))
    assert extlinux_plan._is_apart(Path("/proc/self/mounts"))
