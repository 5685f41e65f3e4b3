"""The simulated HSM6: sealing, modes, refusals, and a line full of noise."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from crfs.errors import RehearsalError
from crfs.rehearsal.hsm import Hsm, Refusal, checksum, format_answer, parse_request
from crfs.rehearsal.module import HsmProcess


@pytest.fixture
def hsm(tmp_path: Path) -> Hsm:
    return Hsm(tmp_path / "hsm.json")


def test_what_is_sealed_comes_back_after_a_restart(hsm: Hsm) -> None:
    blob = hsm.seal(b"key" * 200)
    assert b"keykey" not in blob
    assert Hsm(hsm.path).unseal(blob) == b"key" * 200


def test_a_changed_blob_is_refused(hsm: Hsm) -> None:
    blob = bytearray(hsm.seal(b"secret"))
    blob[25] ^= 1
    with pytest.raises(Refusal):
        hsm.unseal(bytes(blob))


def test_another_module_cannot_unseal(hsm: Hsm) -> None:
    _, blob = hsm.answer("lock", b"secret")
    hsm.control({"do": "swap"})
    code, text = hsm.answer("unlock", blob)
    assert code < 0
    assert b"another module" in text


def test_development_mode_allows_another_card(hsm: Hsm) -> None:
    _, blob = hsm.answer("lock", b"secret")
    hsm.control({"do": "set", "card": "card-2"})
    assert hsm.answer("unlock", blob) == (0, b"secret")


@pytest.mark.parametrize("what", ["card", "board"])
def test_production_mode_refuses_another_host(hsm: Hsm, what: str) -> None:
    _, blob = hsm.answer("lock", b"secret")
    hsm.control({"do": "lock-binding"})
    assert hsm.answer("unlock", blob) == (0, b"secret")
    assert hsm.answer("binding", b"") == (0, b"11")
    hsm.control({"do": "set", what: "other"})
    code, text = hsm.answer("unlock", blob)
    assert code < 0
    assert b"bound to another host" in text
    assert hsm.answer("binding", b"") == (0, b"10")


def test_tampering_destroys_only_when_armed(hsm: Hsm) -> None:
    _, blob = hsm.answer("lock", b"secret")
    hsm.control({"do": "tamper"})
    assert hsm.answer("unlock", blob) == (0, b"secret")
    assert not hsm.answer("perimeter", b"")[1].startswith(b"0 ")
    hsm.answer("perimeter-action", b"0 3")
    hsm.control({"do": "tamper"})
    code, text = hsm.answer("unlock", blob)
    assert code < 0
    assert b"tampered" in text
    assert hsm.state.secret == ""


def test_wrong_answers_have_the_right_length(hsm: Hsm) -> None:
    _, blob = hsm.answer("lock", b"secret")
    hsm.control({"do": "set", "answering": "wrong"})
    code, plain = hsm.answer("unlock", blob)
    assert code == 0
    assert len(plain) == 6
    assert plain != b"secret"


def test_orders_never_show_the_secret(hsm: Hsm) -> None:
    assert "secret" not in hsm.control({"do": "get"})
    with pytest.raises(ValueError, match="no such setting"):
        hsm.control({"do": "set", "secret": "00"})


def test_malformed_requests_get_an_answer(hsm: Hsm) -> None:
    assert hsm.answer("random", b"many")[0] == -22
    assert hsm.answer("no-such-verb", b"")[0] == -22


@pytest.mark.parametrize(
    "line",
    [b"", b"\xff\xfe\n", b"@1 ping -\n", b"@1 ping - ffff\n", b"@1 ping zz 0000\n", b"[  1.0] @"],
)
def test_noise_is_no_request(line: bytes) -> None:
    assert parse_request(line) is None


def test_a_request_after_half_a_line_is_understood() -> None:
    body = "@0000abcd random 3136"
    line = f"@0000ffff unl{body} {checksum(body)}\r\n".encode()
    assert parse_request(line) == ("0000abcd", "random", b"16")


def test_answer_format() -> None:
    line = format_answer("0000abcd", -1, b"no").decode()
    body, total = line.strip().rsplit(" ", 1)
    assert body == "=0000abcd -1 6e6f"
    assert total == checksum(body)


@pytest.fixture
def module(tmp_path: Path) -> Iterator[HsmProcess]:
    with HsmProcess(tmp_path) as process:
        yield process


def test_the_process_answers_on_its_line_and_counts(module: HsmProcess) -> None:
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(10)
        line.connect(str(module.line))
        body = "@1 lock 736563726574"
        line.sendall(f"noise\n{body} {checksum(body)}\n".encode())
        lines = line.makefile()
        answer = next(text for text in lines if text.strip())
        blob = bytes.fromhex(answer.split()[2])
    assert module.counter("locks") == 1
    assert module.unseal(blob) == b"secret"


def test_the_process_refuses_bad_orders(module: HsmProcess) -> None:
    with pytest.raises(RehearsalError, match="answering"):
        module.set(answering="maybe")


def test_foreign_keys_have_the_length_of_their_curve(hsm: Hsm) -> None:
    assert hsm.answer("foreign-key", b"\0" + bytes(64)) == (16, b"")
    assert hsm.answer("foreign-key", b"\2" + bytes(32)) == (17, b"")
    for wrong in (b"\0" + bytes(63), b"\3" + bytes(64), b"\4" + bytes(32), b""):
        assert hsm.answer("foreign-key", wrong)[0] == -22
    assert hsm.answer("slots", b"1") == (0, b"512 2 16 17")


def test_an_address_outside_its_ranges_is_refused(hsm: Hsm) -> None:
    assert hsm.answer("i2c", b"103") == (0, b"")
    assert hsm.back_at > 0
    assert hsm.answer("i2c", b"80")[0] == -22
    assert hsm.state.i2c_address == 0x67
