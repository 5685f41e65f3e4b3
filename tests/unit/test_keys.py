"""The key is sealed, proven, and never seen by anyone but the HSM's tools and cryptsetup."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from crfs import keys, luks, probe, runner
from crfs.errors import CommandError, DisagreementError, HsmError
from crfs.model import Cipher

KEY = bytes(range(256)) * 2


class Hsm:
    """Behind the runner: the vendor's tools, mount and umount, with everything recorded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.argv: list[list[str]] = []
        self.stdin: list[bytes | None] = []
        self.seen: list[bytes] = []  # what a tool found in the file it was given
        self.left: list[bytes] = []  # what was in the folder when it was unmounted
        self.random = KEY
        self.sealed = b"sealed by the hsm"
        self.opens: bytes = KEY
        self.layers = 0  # of ramfs, one upon the other
        self.fails = ""

    @property
    def mounted(self) -> bool:
        return self.layers > 0

    def run(self, argv: Sequence[str], *, stdin: bytes | None = None, **options: Any) -> bytes:
        self.argv.append(list(argv))
        self.stdin.append(stdin)
        if self.fails and self.fails in argv[0]:
            raise CommandError("failed", advice="read what the command said: no answer")
        match list(argv):
            case ["mount", "-t", "ramfs", *_, where]:
                assert where == str(self.folder)
                self.layers += 1
            case ["umount", where]:
                assert where == str(self.folder)
                self.left += [path.read_bytes() for path in self.folder.iterdir()]
                for path in self.folder.iterdir():
                    path.unlink()
                self.layers -= 1
            case ["/sbin/zkgrifs", _]:
                return self.random
            case ["/sbin/zklockifs", name]:
                self._look(name)
                return self.sealed
            case ["/sbin/zkunlockifs", name]:
                self._look(name)
                return self.opens
        return b""

    def _look(self, name: str) -> None:
        path = Path(name)
        assert self.mounted, "outside of the ramfs it could reach a disk"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        self.seen.append(path.read_bytes())


@pytest.fixture
def hsm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hsm:
    made = Hsm(tmp_path / "keys")
    monkeypatch.setattr(keys, "_KEY_FOLDER", made.folder)
    monkeypatch.setattr(runner, "run", made.run)
    monkeypatch.setattr(probe, "mount_of", lambda target: "ramfs" if made.mounted else None)
    return made


def test_seal_and_prove(hsm: Hsm) -> None:
    assert keys.seal(KEY) == hsm.sealed
    tools = [argv[0] for argv in hsm.argv if argv[0].startswith("/sbin")]
    assert tools == ["/sbin/zklockifs", "/sbin/zkunlockifs"]
    assert hsm.seen == [KEY, hsm.sealed]


def test_nothing_is_left_in_memory(hsm: Hsm) -> None:
    keys.seal(KEY)
    assert not hsm.mounted
    assert not hsm.folder.exists()
    assert all(not one.strip(b"\0") for one in hsm.left), "the key is overwritten before it goes"


def test_what_a_killed_run_has_left_is_unmounted(hsm: Hsm) -> None:
    hsm.folder.mkdir()
    hsm.layers = 2
    keys.seal(KEY)
    assert not hsm.mounted
    assert not hsm.folder.exists()


@pytest.mark.parametrize("tool", ["zklockifs", "zkunlockifs"])
def test_nothing_is_left_after_a_failure(hsm: Hsm, tool: str) -> None:
    hsm.fails = tool
    with pytest.raises(HsmError, match="no answer") as caught:
        keys.seal(KEY)
    assert caught.value.advice
    assert not hsm.mounted
    assert not hsm.folder.exists()


def test_a_seal_that_does_not_open_is_no_seal(hsm: Hsm) -> None:
    hsm.opens = KEY[::-1]
    with pytest.raises(HsmError, match="does not open"):
        keys.seal(KEY)


@pytest.mark.parametrize("wrong", [b"", KEY[:-1], KEY + b"\n"])
def test_an_opened_key_has_its_length(hsm: Hsm, wrong: bytes) -> None:
    hsm.opens = wrong
    with pytest.raises(HsmError, match=f"{len(wrong)} bytes"):
        keys.unseal(b"sealed")


@pytest.mark.parametrize("wrong", [b"", KEY[:-1], b"\0" * 512, b"\xff" * 512])
def test_random_bytes_are_random(hsm: Hsm, wrong: bytes) -> None:
    hsm.random = wrong
    with pytest.raises(HsmError):
        keys.random_bytes(512)


def spied(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Hsm, str]:
    spy = Hsm(tmp_path / "keys")
    monkeypatch.setattr(runner, "run", spy.run)
    monkeypatch.setattr(probe, "luks_of_mapping", lambda name: "")
    monkeypatch.setattr(probe, "mapping_path", lambda name: tmp_path / name)
    return spy, "/dev/sdx"


def test_key_is_never_an_argument(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Everyone may read the arguments of a running command."""
    spy, path = spied(monkeypatch, tmp_path)
    monkeypatch.setattr(keys, "_KEY_FOLDER", spy.folder)
    luks.format_device(path, "uuid", luks.AES, KEY, "label")
    luks.open_mapping(path, "cryptrfs", "uuid", KEY)
    assert luks.key_opens(path, KEY)
    keys.seal(KEY)
    keys.unseal(spy.sealed)
    for secret in (KEY, KEY[:8], KEY.hex().encode(), KEY[:8].hex().encode()):
        for argv in spy.argv:
            assert not any(secret in os.fsencode(word) for word in argv)
    given = [argv for argv, stdin in zip(spy.argv, spy.stdin, strict=True) if stdin == KEY]
    assert [argv[:2] for argv in given] == [
        ["cryptsetup", "luksFormat"],
        ["cryptsetup", "open"],
        ["cryptsetup", "open"],
    ]
    assert all("--key-file" in argv and argv[argv.index("--key-file") + 1] == "-" for argv in given)


def test_header_as_declared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spy, path = spied(monkeypatch, tmp_path)
    luks.format_device(path, "the-uuid", luks.ADIANTUM_12, KEY, "crfs-stage")
    words = " ".join(spy.argv[0])
    for expected in (
        "--type luks2",
        "--uuid the-uuid",
        "--cipher xchacha12,aes-adiantum-plain64",
        "--key-size 256",
        "--sector-size 4096",
        "--pbkdf pbkdf2",
    ):
        assert expected in words
    assert spy.argv[0][-1] == path


def test_open_mapping_of_another_header_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spy, path = spied(monkeypatch, tmp_path)
    (tmp_path / "cryptrfs").touch()
    monkeypatch.setattr(probe, "luks_of_mapping", lambda name: "other")
    with pytest.raises(DisagreementError) as caught:
        luks.open_mapping(path, "cryptrfs", "uuid", KEY)
    assert caught.value.advice
    assert not spy.argv


def test_open_mapping_is_repeatable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spy, path = spied(monkeypatch, tmp_path)
    monkeypatch.setattr(probe, "luks_of_mapping", lambda name: "uuid")
    luks.open_mapping(path, "cryptrfs", "uuid", KEY)
    assert not spy.argv


def test_wrong_key_opens_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spy, path = spied(monkeypatch, tmp_path)
    spy.fails = "cryptsetup"
    assert not luks.key_opens(path, KEY)


def test_erase_takes_keys_header_and_signature(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spy, path = spied(monkeypatch, tmp_path)
    luks.erase(path)
    assert [argv[0] for argv in spy.argv] == ["dd", "cryptsetup", "wipefs", "dd"]
    half = luks.HEADER_BYTES // 2**20
    assert 2 * luks.HEADER_BYTES == luks.STAGE_DATA_OFFSET
    for argv in (spy.argv[0], spy.argv[3]):
        assert {f"of={path}", f"count={half}"} <= set(argv)
    # The header that the stick is found by goes last.
    assert [f"seek={half}" in argv for argv in spy.argv] == [True, False, False, False]


MEASURED = "# Tests are approximate\n# Algorithm | Key\naes-xts  512b  812.0 MiB/s  815.0 MiB/s\n"
# What cryptsetup 2.6 writes when the kernel does not have the cipher; the rest goes to stderr.
UNKNOWN = "# Tests are approximate using memory only (no storage IO).\n"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (MEASURED, True),
        (UNKNOWN, False),
        ("", False),
        ("# Algorithm\naes-xts  512b  N/A  N/A\n", False),
    ],
)
def test_cipher_is_usable_when_it_was_measured(
    monkeypatch: pytest.MonkeyPatch, said: str, expected: bool
) -> None:
    monkeypatch.setattr(runner, "query", lambda argv, **options: said)
    assert luks.usable(luks.AES) == expected


@pytest.mark.parametrize(
    ("has_aes", "known", "expected"),
    [
        (True, {"aes", "xchacha12"}, luks.AES),
        (False, {"aes", "xchacha12", "xchacha20"}, luks.ADIANTUM_12),
        (False, {"aes", "xchacha20"}, luks.ADIANTUM_20),
        (False, {"aes"}, luks.AES),
        (False, set(), luks.AES),
    ],
)
def test_cipher_is_chosen_by_the_cpu(
    monkeypatch: pytest.MonkeyPatch, has_aes: bool, known: set[str], expected: Cipher
) -> None:
    def query(argv: Sequence[str], **options: Any) -> str:
        name = argv[argv.index("--cipher") + 1]
        return MEASURED if any(name.startswith(one) for one in known) else UNKNOWN

    monkeypatch.setattr(probe, "cpu_has_aes", lambda: has_aes)
    monkeypatch.setattr(runner, "query", query)
    assert luks.choose_cipher() == expected


@pytest.mark.real_commands
@pytest.mark.skipif(os.geteuid() != 0, reason="locking memory without a limit needs root")
def test_memory_is_locked_and_not_dumped() -> None:
    code = (
        "from crfs import keys\n"
        "assert keys.protect_memory()\n"
        "held = bytearray(2**20)\n"
        "facts = dict(line.split(':', 1) for line in open('/proc/self/status'))\n"
        "assert int(facts['VmLck'].split()[0]) >= 1024, facts['VmLck']\n"
        "assert keys.ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) == 0\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
