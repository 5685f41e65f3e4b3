"""What brings a new initramfs to the boot partition: never one that would not open the root."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from crfs import keys, tpm2

HOOK = Path(__file__).resolve().parents[2] / "initramfs-hooks/post-update"
VERSION = "6.12.47+rpt-rpi-v8"
BEFORE = "6.12.25+rpt-rpi-v8"  # runs now
MODULES = ("/adiantum.ko", "/chacha-neon.ko", "/aes.ko")
ALWAYS = ("cryptroot/crypttab", "zk_get_key", "dm-crypt.ko", *MODULES)
CIPHERS = {"adiantum": "xchacha12,aes-adiantum-plain64", "aes": "aes-xts-plain64"}
OLD = "the old one, which boots"
pytestmark = pytest.mark.real_commands


@pytest.fixture
def pi(tmp_path: Path) -> Path:
    for folder in ("boot", "firmware", f"modules/{VERSION}"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "firmware/config.txt").write_text("initramfs crfs-initramfs followkernel\n")
    (tmp_path / "firmware/crfs-initramfs").write_text(OLD)
    return tmp_path


def update(
    pi: Path,
    names: tuple[str, ...],
    *,
    lister: str = 'cat "$1"',
    running: str = BEFORE,
    cipher: str = "adiantum",
    maker: str = 'echo "made for $3" >"$2"',
    room: int = 1000,
) -> tuple[int, str]:
    """Exit code and standard error of the hook; the image is its own listing."""
    image = pi / f"boot/initrd.img-{VERSION}"
    image.write_text("".join(f"usr/lib/{name}.xz\n" for name in names))
    text = HOOK.read_text()
    for word, path in {
        "boot=/boot/firmware": f"boot={pi / 'firmware'}",
        "kernels=/boot\n": f"kernels={pi / 'boot'}\n",
        "/var/lib/crfs/boot.sha256": str(pi / "boot.sha256"),
        "/var/tmp/": f"{pi}/",
        "/etc/initramfs-tools/scripts/crfs-tpm2": str(pi / "crfs-tpm2"),
        "/lib/modules": str(pi / "modules"),
    }.items():
        assert word in text
        text = text.replace(word, path)
    around = f"""
        dmsetup() {{ echo '0 99 crypt {CIPHERS[cipher]} :64:logon:cryptsetup:x 0 8:2 32768'; }}
        modprobe() {{
            for name; do :; done
            case $name in
            crypto-xchacha12)
                echo 'builtin libchacha'
                echo 'insmod /lib/modules/{VERSION}/kernel/arch/chacha-neon.ko.xz'
                ;;
            crypto-nhpoly1305) return 1 ;;
            *) echo "insmod /lib/modules/{VERSION}/kernel/${{name#crypto-}}.ko.xz option=1" ;;
            esac
        }}
        mkinitramfs() {{ {maker}; }}
        stat() {{ echo '{room} * 10'; }}
        mountpoint() {{ :; }}
        sync() {{ :; }}
        uname() {{ echo {running}; }}
        lsinitramfs() {{ {lister}; }}
    """
    done = subprocess.run(
        ["/bin/sh", "-c", around + text, "zz-crfs", VERSION, str(image)],
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stderr


def on_boot_partition(pi: Path) -> str:
    assert not list((pi / "firmware").glob("*.crfs-new"))
    return (pi / "firmware/crfs-initramfs").read_text()


def needed(pi: Path, *, tpm: bool) -> tuple[str, ...]:
    """What the migration looks for as well, with this kind of key."""
    if tpm:
        (pi / "crfs-tpm2").touch()
    return (*ALWAYS, *(tpm2.IN_INITRAMFS if tpm else keys.IN_INITRAMFS))


@pytest.mark.parametrize("tpm", [False, True])
def test_an_initramfs_that_opens_the_root_gets_there(pi: Path, tpm: bool) -> None:
    code, said = update(pi, needed(pi, tpm=tpm))
    assert (code, said) == (0, "")
    assert "zk_get_key" in on_boot_partition(pi)


@pytest.mark.parametrize(
    ("tpm", "name"),
    [(False, one) for one in (*ALWAYS, *keys.IN_INITRAMFS)]
    + [(True, one) for one in (*ALWAYS, *tpm2.IN_INITRAMFS)],
)
def test_one_that_lacks_something_does_not(pi: Path, tpm: bool, name: str) -> None:
    rest = tuple(one for one in needed(pi, tpm=tpm) if one != name)
    code, said = update(pi, rest)
    assert code == 1
    assert f"it lacks: {name}\n" in said
    assert "keeps the old initramfs" in said
    assert "apt install cryptsetup-initramfs" in said
    assert ("tpm2-tools" in said) == tpm
    assert "update-initramfs -u" in said
    assert on_boot_partition(pi) == OLD


def test_only_the_modules_of_this_cipher_are_missed(pi: Path) -> None:
    rest = [one for one in needed(pi, tpm=False) if one not in MODULES]
    assert update(pi, (*rest, "/aes.ko"), cipher="aes")[0] == 1
    assert update(pi, (*rest, "/aes.ko", "/xts.ko"), cipher="aes") == (0, "")


def test_without_cryptsetup_initramfs_all_that_is_missing_is_said(pi: Path) -> None:
    """As after `apt purge crfs` and `apt autoremove`."""
    code, said = update(pi, keys.IN_INITRAMFS)
    assert code == 1
    assert f"it lacks: {' '.join(ALWAYS)}\n" in said
    assert on_boot_partition(pi) == OLD


def test_a_built_in_module_is_not_missed(pi: Path) -> None:
    builtin = pi / f"modules/{VERSION}/modules.builtin"
    builtin.write_text("kernel/drivers/md/dm-crypt.ko\n")
    code, said = update(pi, tuple(one for one in needed(pi, tpm=False) if one != "dm-crypt.ko"))
    assert (code, said) == (0, "")
    assert on_boot_partition(pi) != OLD


@pytest.mark.parametrize("lister", ['cat "$1"; false', "no-such-command-lsinitramfs"])
def test_an_image_that_cannot_be_looked_into_is_not_taken(pi: Path, lister: str) -> None:
    code, said = update(pi, needed(pi, tpm=False), lister=lister)
    assert code == 1
    assert "cannot be looked into" in said
    assert on_boot_partition(pi) == OLD


def test_an_image_that_the_firmware_does_not_load_is_passed_over(pi: Path) -> None:
    """Of another flavour than the one that runs, or not the newest: no update fails for it."""
    assert update(pi, (), running="6.12.25+rpt-rpi-2712") == (0, "")
    newer = pi / "boot/initrd.img-6.13.0+rpt-rpi-v8"
    newer.touch()
    assert update(pi, ()) == (0, "")
    newer.unlink()
    assert update(pi, ())[0] == 1
    (pi / "firmware/config.txt").write_text("auto_initramfs=1\n")
    assert update(pi, ()) == (0, "")
    assert on_boot_partition(pi) == OLD


def install(pi: Path, *versions: str, there: str) -> None:
    """Kernels in /boot, one of which the boot partition has."""
    for version in (*versions, there):
        (pi / f"boot/vmlinuz-{version}").write_text(f"kernel {version}")
    (pi / "firmware/kernel8.img").write_text(f"kernel {there}")
    (pi / "firmware/kernel_2712.img").write_text("kernel of another board")


def test_the_kernel_that_runs_is_the_one_before(pi: Path) -> None:
    """Not an old one that the user has kept beside it."""
    install(pi, VERSION, "6.12.9+rpt-rpi-v8", there=BEFORE)
    (pi / "firmware/kernel8-old.img").write_text("kernel 6.12.9+rpt-rpi-v8")
    assert update(pi, needed(pi, tpm=False)) == (0, "")
    assert on_boot_partition(pi).startswith(f"made for {BEFORE}\n")
    (pi / "firmware/kernel8.img").write_text(f"kernel {VERSION}")
    assert update(pi, needed(pi, tpm=False)) == (0, "")
    assert not on_boot_partition(pi).startswith("made for")


def test_an_initramfs_serves_the_kernel_before_until_the_new_one_is_there(pi: Path) -> None:
    """What comes between, a cut or a hook that fails, leaves a kernel that finds its modules."""
    install(pi, VERSION, there=BEFORE)
    names = needed(pi, tpm=False)
    for _ in range(2):  # another try must not make it grow
        assert update(pi, names) == (0, "")
        both = on_boot_partition(pi)
        assert both.startswith(f"made for {BEFORE}\n")
        assert both.endswith((pi / f"boot/initrd.img-{VERSION}").read_text())
    assert not list(pi.glob("crfs-initramfs*")), "left in /var/tmp"
    install(pi, BEFORE, there=VERSION)
    assert update(pi, names) == (0, "")
    assert on_boot_partition(pi) == (pi / f"boot/initrd.img-{VERSION}").read_text()


def test_without_room_for_both_it_serves_the_new_kernel(pi: Path) -> None:
    install(pi, VERSION, there=BEFORE)
    assert update(pi, needed(pi, tpm=False), room=20) == (0, "")
    assert on_boot_partition(pi) == (pi / f"boot/initrd.img-{VERSION}").read_text()


def test_an_initramfs_that_cannot_serve_both_is_not_taken(pi: Path) -> None:
    install(pi, VERSION, there=BEFORE)
    code, said = update(pi, needed(pi, tpm=False), maker="return 1")
    assert code == 1
    assert BEFORE in said
    assert on_boot_partition(pi) == OLD
    assert not list(pi.glob("crfs-initramfs*"))


def test_a_kernel_that_was_removed_keeps_its_initramfs(pi: Path) -> None:
    """raspi-firmware leaves it on the boot partition, and an older one is the newest in /boot."""
    install(pi, VERSION, there="6.12.62+rpt-rpi-v8")
    (pi / "boot/vmlinuz-6.12.62+rpt-rpi-v8").unlink()
    code, said = update(pi, needed(pi, tpm=False))
    assert code == 0
    assert "stays as it is" in said
    assert on_boot_partition(pi) == OLD


def test_its_hash_is_noted(pi: Path) -> None:
    record = pi / "boot.sha256"
    record.write_text("11  config.txt\n22  crfs-initramfs\n")
    assert update(pi, needed(pi, tpm=False)) == (0, "")
    digest = hashlib.sha256(on_boot_partition(pi).encode()).hexdigest()
    assert record.read_text() == f"11  config.txt\n{digest}  crfs-initramfs\n"
    assert update(pi, ())[0] == 1
    assert digest in record.read_text(), "of one that was refused"


def test_a_hash_that_cannot_be_noted_fails_no_update(pi: Path) -> None:
    (pi / "boot.sha256").mkdir()
    code, said = update(pi, needed(pi, tpm=False))
    assert code == 0
    assert "could not be noted" in said
    assert on_boot_partition(pi) != OLD
    assert not list(pi.glob("*.new"))
