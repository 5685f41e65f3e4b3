"""`crfs hsm` and what the doctor asks, through a client like Zymbit's on the simulated module."""

from __future__ import annotations

import json
import os
import sys
import types
from pathlib import Path

import pytest

from crfs import zymbit
from crfs.commands import hsm as command
from crfs.errors import HostError, HsmError
from crfs.rehearsal.hsm import Hsm
from tests.unit.pi import FakePi, lay_out

TIMEOUT = -110
CURVES = {"secp256r1": 0, "nistp256": 0, "secp256k1": 1, "ed25519": 2, "x25519": 3}


class Client:
    """The methods of Zymbit's client, with its way of failing."""

    def __init__(self, module: Hsm) -> None:
        self.module = module
        self.asked: list[str] = []
        self.silent = 0  # so many questions from now on get no answer

    def _ask(self, verb: str, payload: bytes = b"") -> tuple[int, bytes]:
        self.asked.append(verb)
        if self.silent or self.module.state.answering == "silent":
            self.silent = max(0, self.silent - 1)
            raise AssertionError(f"bad return code {TIMEOUT}")
        code, answer = self.module.answer(verb, payload)
        if code < 0:
            raise AssertionError(f"bad return code {code}")
        return code, answer

    def get_model_number(self) -> str:
        return self._ask("model")[1].decode()

    def get_firmware_version(self) -> str:
        return self._ask("firmware")[1].decode()

    def get_serial_number(self) -> str:
        return self._ask("serial")[1].decode()

    def get_current_binding_info(self) -> tuple[bool, bool]:
        locked, bound = (one == ord("1") for one in self._ask("binding")[1])
        return locked, locked and bound

    def get_perimeter_detect_info(self) -> list[int]:
        return [int(word) for word in self._ask("perimeter")[1].split()]

    def get_batt_volt(self) -> float:
        return float(self._ask("battery")[1])

    def get_cpu_temp(self) -> float:
        return float(self._ask("temperature")[1])

    def get_rtc_drift(self) -> float:
        return float(self._ask("drift")[1])

    def get_time(self) -> int:
        return int(self._ask("time")[1])

    def lock(self, data: bytes) -> bytearray:
        return bytearray(self._ask("lock", bytes(data))[1])

    def unlock(self, data: bytes) -> bytearray:
        return bytearray(self._ask("unlock", bytes(data))[1])

    def set_i2c_address(self, address: int) -> None:
        self._ask("i2c", str(address).encode())

    def store_foreign_public_key(self, curve: str, key: bytearray) -> int:
        return self._ask("foreign-key", bytes([CURVES[curve]]) + key)[0]

    def get_slot_alloc_list(self, foreign: bool = False) -> tuple[list[int], int]:
        most, _, *slots = map(int, self._ask("slots", b"%d" % foreign)[1].split())
        return slots, most

    def get_public_key(self, slot: int = 0, foreign: bool = False) -> bytearray:
        return bytearray(self._ask("public-key", b"%d %d" % (slot, foreign))[1])


def install(monkeypatch: pytest.MonkeyPatch, client: Client | None) -> None:
    package = types.ModuleType("zymkey")
    package.client = client  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "zymkey", package)


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    made = Client(Hsm(tmp_path / "hsm.json"))
    install(monkeypatch, made)
    monkeypatch.setattr(command, "_PAUSE_S", 0.0)
    return made


@pytest.fixture
def no_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zymkey", None)


# --- what the module tells


def test_report_of_a_healthy_module(client: Client) -> None:
    told = zymbit.report()
    assert told["serial"] == client.module.state.serial
    del told["serial"]
    assert told == {
        "installed": True,
        "said": "",
        "model": "HSM6 (simulated)",
        "firmware": "01.01-sim",
        "locked": False,
        "bound": False,
        "perimeter": [0, 0],
        "battery": 3.0,
        "temperature": 41.5,
        "rtc_drift": 0.25,
        "clock_ahead": told["clock_ahead"],
        "seals": "",
    }
    assert abs(told["clock_ahead"]) <= 1
    json.dumps(told)


def test_report_of_a_module_far_from_home(client: Client) -> None:
    client.module.control({"do": "lock-binding"})
    client.module.control({"do": "set", "card": "card-2", "clock_ahead": -90})
    told = zymbit.report()
    assert (told["locked"], told["bound"]) == (True, False)
    assert "refuses" in told["seals"]
    assert told["clock_ahead"] in (-90, -91, -89)


def test_report_of_a_module_that_gives_wrong_answers(client: Client) -> None:
    client.module.control({"do": "set", "answering": "wrong"})
    assert "does not open" in zymbit.report()["seals"]


def test_report_of_an_older_module(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Client, "get_batt_volt")
    assert zymbit.report()["battery"] is None


def test_a_silent_module_is_asked_once(client: Client) -> None:
    client.module.control({"do": "set", "answering": "silent"})
    told = zymbit.report()
    assert told["installed"] and "does not answer" in told["said"]
    assert len(client.asked) == 1


def test_no_module_and_no_client_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, None)
    assert zymbit.report()["installed"] is True
    with pytest.raises(HsmError):
        zymbit.client()
    monkeypatch.setitem(sys.modules, "zymkey", None)
    assert zymbit.report()["installed"] is False
    with pytest.raises(HostError, match="not installed"):
        zymbit.client()


def test_a_client_without_its_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "zymkey.py").write_text("raise RuntimeError('unable to find libzk_app_utils.so')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "zymkey", raising=False)
    with pytest.raises(HostError, match="libzk_app_utils"):
        zymbit.client()


# --- the commands


def test_info(pi: FakePi, client: Client) -> None:
    client.module.control({"do": "tamper", "channel": 1})
    result = pi.crfs("hsm", "info")
    assert result.code == 0, result
    for words in (
        client.module.state.serial,
        "development mode",
        "3.00 V",
        "channel 0: no event; channel 1: 20",
        "Clock's drift:  0.25",
        "opens what it seals",
    ):
        assert words in result.out
    assert json.loads(pi.crfs("hsm", "info", "--json").out)["model"] == "HSM6 (simulated)"


@pytest.mark.parametrize(("card", "word"), [("card-1", "for good"), ("card-2", "ANOTHER")])
def test_info_of_production_mode(pi: FakePi, client: Client, card: str, word: str) -> None:
    client.module.control({"do": "lock-binding"})
    client.module.control({"do": "set", "card": card})
    assert word in pi.crfs("hsm", "info").out


@pytest.mark.parametrize(
    "argv",
    [["info"], ["keys"], ["set-i2c-address", "0x31", "--yes"], ["store-public-key", "key"]],
    ids=lambda argv: str(argv[0]),
)
def test_without_the_client(
    pi: FakePi, no_client: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str]
) -> None:
    (tmp_path / "key").write_bytes(bytes(64))
    monkeypatch.chdir(tmp_path)
    pi.refuses(["hsm", *argv], 14, "client is not installed")


def test_a_silent_module_is_an_error(pi: FakePi, client: Client) -> None:
    client.module.control({"do": "set", "answering": "silent"})
    for argv in (["info"], ["keys"], ["set-i2c-address", "0x31", "--yes"]):
        pi.refuses(["hsm", *argv], 15, "does not answer")


def test_keys(pi: FakePi, client: Client) -> None:
    client.store_foreign_public_key("x25519", bytearray(32))
    result = pi.crfs("hsm", "keys")
    assert result.code == 0, result
    assert "secp256k1, X25519, ED25519" in result.out
    assert "Own keys: 3 of 640" in result.out
    assert "Foreign keys: 1 of 512" in result.out
    assert "slot  16" in result.out
    told = json.loads(pi.crfs("hsm", "keys", "--json").out)
    assert told["stores"]["foreign"]["slots"] == {"16": "66687aadf862bd77"}


def test_a_key_that_is_not_shown(
    pi: FakePi, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Client, slot: int = 0, foreign: bool = False) -> bytearray:
        raise AssertionError("bad return code -1")

    monkeypatch.setattr(Client, "get_public_key", refuse)
    assert "not shown" in pi.crfs("hsm", "keys").out


@pytest.mark.parametrize(
    "address",
    ["0x50", "0x2f", "0x38", "0x5f", "0x68", "80", "-1", "0x", "x30", "", "48.0", "0x30 ", "\0"],
)
def test_bad_addresses_are_refused_before_anything_is_sent(
    pi: FakePi, client: Client, address: str
) -> None:
    if address == "0x30 ":
        address = "0x30 0x31"
    pi.refuses(["hsm", "set-i2c-address", "--yes", "--", address], 2)
    assert client.asked == []


@pytest.mark.parametrize("address", ["0x30", "0x37", "0x60", "0x67", "49"])
def test_the_address_is_changed(pi: FakePi, client: Client, address: str) -> None:
    client.silent = 0
    result = pi.crfs("hsm", "set-i2c-address", address, "--yes")
    assert result.code == 0, result
    assert "restarts" in result.out and "i2cdetect" in result.out
    assert client.module.state.i2c_address == int(address, 0)


def test_it_asks_first(pi: FakePi, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda prompt: "no")
    pi.refuses(["hsm", "set-i2c-address", "0x31"], 23)
    assert client.asked == []


def test_it_waits_until_the_module_is_back(
    pi: FakePi, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = Client.set_i2c_address

    def restart(self: Client, address: int) -> None:
        change(self, address)
        self.silent = 3

    monkeypatch.setattr(Client, "set_i2c_address", restart)
    assert "answers at 0x33" in pi.crfs("hsm", "set-i2c-address", "0x33", "--yes").out
    monkeypatch.setattr(command, "_BACK_AFTER_S", 0.0)
    client.asked.clear()
    result = pi.crfs("hsm", "set-i2c-address", "0x34", "--yes")
    assert result.code == 15
    assert "new address" in result.err


def test_an_address_that_another_device_has(pi: FakePi, client: Client) -> None:
    lay_out(pi.folder, {"sys/bus/i2c/devices/1-0062/name": b"scd40\n"})
    pi.refuses(["hsm", "set-i2c-address", "0x62", "--yes"], 2, "another device")
    assert client.asked == []


def test_not_during_a_migration(pi: FakePi, client: Client) -> None:
    lay_out(pi.boot, {"crfs/journal.0": b""})
    pi.refuses(["hsm", "set-i2c-address", "0x31", "--yes"], 16)


@pytest.mark.parametrize(
    ("curve", "size"), [("secp256r1", 64), ("secp256k1", 64), ("ed25519", 32), ("x25519", 32)]
)
def test_a_public_key_is_stored(
    pi: FakePi, client: Client, tmp_path: Path, curve: str, size: int
) -> None:
    path = tmp_path / "pub_key_slot0"
    path.write_bytes(os.urandom(size))
    result = pi.crfs("hsm", "store-public-key", str(path), "--curve", curve)
    assert result.code == 0, result
    assert "foreign slot 16" in result.out
    assert bytes(client.get_public_key(16, foreign=True)) == path.read_bytes()


@pytest.mark.parametrize(
    ("content", "curve", "word"),
    [
        (bytes(63), "secp256r1", "63 bytes"),
        (bytes(65), "secp256r1", "more than 64"),
        (b"-----BEGIN PUBLIC KEY-----\n" * 9, "secp256r1", "more than 64"),
        (bytes(64), "ed25519", "more than 32"),
        (b"", "secp256r1", "0 bytes"),
        (bytes(64), "rsa", "no curve"),
        (None, "secp256r1", "cannot be read"),
    ],
)
def test_bad_keys_are_refused_before_anything_is_sent(
    pi: FakePi, client: Client, tmp_path: Path, content: bytes | None, curve: str, word: str
) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    pi.refuses(["hsm", "store-public-key", str(path), "--curve", curve], 2, word)
    assert client.asked == []


def test_changes_need_root(
    pi: FakePi, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_bytes(bytes(64))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    pi.refuses(["hsm", "set-i2c-address", "0x31", "--yes"], 11)
    pi.refuses(["hsm", "store-public-key", str(tmp_path / "key")], 11)
    assert pi.crfs("hsm", "info").code == 0


@pytest.mark.parametrize("argv", [["hsm"], ["hsm", "frobnicate"], ["hsm", "set-i2c-address"]])
def test_incomplete_commands(pi: FakePi, argv: list[str]) -> None:
    pi.refuses(argv, 2)
