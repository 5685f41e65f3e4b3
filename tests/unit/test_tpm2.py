"""A key bound to a TPM: the same journey with another keeper of the key."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crfs import bindings, dress, keys, live, luks, model, runner, tpm2
from crfs.bootfiles import BootFiles
from crfs.errors import CommandError, HsmError
from crfs.model import HSM6, TPM2, Record
from crfs.steps import BY_STATE, Context
from tests.unit.pi import FakePi, plan, sealed_by_tpm

KEY = bytes(range(64))
TOKEN = json.dumps(sealed_by_tpm(KEY)).encode()


@pytest.fixture
def with_tpm(pi: FakePi) -> FakePi:
    """A Pi with a TPM and without anything of Zymbit's."""
    tpm2.DEVICE.touch()
    for name in keys.TOOLS:
        Path(name).unlink()
    shutil.rmtree(keys.STATE_FOLDER)
    pi.active.discard(keys.DAEMON)
    return pi


# --- the TPM's part


class Script:
    """Behind the runner: the script that asks the TPM."""

    def __init__(self) -> None:
        self.argv: list[list[str]] = []
        self.opens = KEY
        self.fails = ""

    def run(self, argv: Sequence[str], *, stdin: bytes | None = None, **options: Any) -> bytes:
        self.argv.append(list(argv))
        if self.fails:
            raise CommandError("failed", advice=f"read what the command said: {self.fails}")
        if argv[0] == "cryptsetup":
            return b""
        return TOKEN if argv[1] == "seal" else self.opens


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    made = Script()
    monkeypatch.setattr(runner, "run", made.run)
    return made


def test_seal_and_prove(script: Script) -> None:
    assert tpm2.seal(KEY) == TOKEN
    assert [argv[1] for argv in script.argv] == ["seal", "unseal"]
    assert not any(KEY.hex() in word for argv in script.argv for word in argv)


def test_a_seal_that_does_not_open_is_no_seal(script: Script) -> None:
    script.opens = KEY[::-1]
    with pytest.raises(HsmError, match="does not open"):
        tpm2.seal(KEY)


@pytest.mark.parametrize("wrong", [b"", KEY[:-1], KEY + b"\n"])
def test_an_opened_key_has_its_length(script: Script, wrong: bytes) -> None:
    script.opens = wrong
    with pytest.raises(HsmError, match=f"{len(wrong)} bytes"):
        tpm2.unseal(TOKEN)


@pytest.mark.parametrize("noise", ["", "WARNING:esys:of the tools\n"])
def test_the_last_line_tells_why(script: Script, noise: str) -> None:
    script.fails = noise + "sealed by another TPM"
    with pytest.raises(HsmError) as caught:
        tpm2.unseal(TOKEN)
    assert caught.value.what == "The TPM did not do its part: sealed by another TPM"
    assert caught.value.advice


def test_two_keys_are_two() -> None:
    assert len(tpm2.make_key()) == tpm2.KEY_BYTES
    assert tpm2.make_key() != tpm2.make_key()


@pytest.mark.parametrize(
    "hostile",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b"[" * 100000,
        json.dumps({**sealed_by_tpm(KEY), "type": "crfs-recovery"}).encode(),
        json.dumps({**sealed_by_tpm(KEY), "more": 1}).encode(),
    ],
)
def test_only_a_sealed_key_becomes_a_token(script: Script, hostile: bytes) -> None:
    """It lies on the boot partition, where anyone with the card in hand can write."""
    with pytest.raises(HsmError):
        tpm2.attach("/dev/sdx", hostile)
    assert not script.argv


@given(st.binary())
def test_anything_may_lie_on_the_boot_partition(content: bytes) -> None:
    with pytest.raises(HsmError):
        tpm2.attach("/dev/sdx", content)


def test_what_a_header_tells(pi: FakePi) -> None:
    assert bindings.kind_of("/dev/sdx") == HSM6
    assert not tpm2.attached("/dev/sdx", TOKEN)
    with pytest.raises(HsmError, match="no key sealed by a TPM"):
        tpm2.sealed_key("/dev/sdx")
    pi.tokens["/dev/sdx"] = [{"type": "crfs-recovery", "keyslots": ["1"]}, sealed_by_tpm(KEY)]
    assert bindings.kind_of("/dev/sdx") == TPM2
    assert tpm2.attached("/dev/sdx", TOKEN)
    assert json.loads(tpm2.sealed_key("/dev/sdx")) == sealed_by_tpm(KEY)
    pi.tokens["/dev/sdx"] = [sealed_by_tpm(KEY[::-1])]
    assert not tpm2.attached("/dev/sdx", TOKEN)


# --- the journey


def test_encrypt(with_tpm: FakePi) -> None:
    with_tpm.active.add("zkbootrtc.service")  # none of its business
    result = with_tpm.crfs("encrypt", "--yes", "--key", "tpm2")
    assert result.code == 0, result
    assert "TPM: answers" in result.out
    assert "it opens cryptrfs without the TPM" in result.out
    kept = with_tpm.journal.read()
    assert kept is not None
    assert (kept.plan.binding, kept.plan.services) == (TPM2, ())
    sealed = json.loads((with_tpm.boot / "crfs/key.bin.lock").read_bytes())
    assert sealed["type"] == tpm2.TOKEN
    assert with_tpm.effects[-1][:2] == ["systemctl", "start"]
    assert not [one for one in with_tpm.effects if one[1] == "stop"]


def test_dry_run_asks_the_tpm(with_tpm: FakePi) -> None:
    result = with_tpm.crfs("encrypt", "--dry-run", "--key", "tpm2")
    assert (result.code, "TPM: answers" in result.out) == (0, True)
    assert not with_tpm.changes()


def test_preflight(with_tpm: FakePi) -> None:
    with_tpm.refuses(["encrypt", "--yes"], 14, "Zymbit's tools are missing")
    with_tpm.tpm_answers = False
    with_tpm.refuses(["encrypt", "--yes", "--key", "tpm2"], 15, "the TPM does not answer")
    with_tpm.missing.add("tpm2")
    with_tpm.refuses(["encrypt", "--yes", "--key", "tpm2"], 14, "tpm2-tools is not installed")
    tpm2.DEVICE.unlink()
    with_tpm.refuses(["encrypt", "--yes", "--key", "tpm2"], 14, "There is no TPM 2.0")
    with_tpm.refuses(["encrypt", "--key", "tpm1"], 2, "tpm1")


def test_each_header_of_a_run_gets_the_sealed_key(
    pi: FakePi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stick opens by itself in reboot 1, cryptrfs in reboot 2."""
    kept = Record(plan=plan(str(pi.boot), binding=TPM2), state="staging")
    context = Context(
        pi.journal, kept, BootFiles(pi.boot, kept.plan), lambda done, whole: None, print
    )
    BY_STATE["staging"][0].do(context)
    done: list[str] = []
    monkeypatch.setattr(luks, "format_device", lambda path, *rest: done.append(f"format {path}"))
    monkeypatch.setattr(luks, "key_opens", lambda path, key: True)

    def add_token(path: str, token: dict[str, Any]) -> None:
        done.append(f"token {path}")
        pi.tokens[path] = [token]

    monkeypatch.setattr(luks, "add_token", add_token)
    for device in ("/dev/sdx", "/dev/mmcblk0p2"):
        assert not context.formatted(device), "without its token no boot could open it"
        context.format(device, "uuid", "label")
        assert context.formatted(device)
    assert done == [
        *("format /dev/sdx", "token /dev/sdx"),
        *("format /dev/mmcblk0p2", "token /dev/mmcblk0p2"),
    ]
    sealed = (pi.boot / "crfs/key.bin.lock").read_bytes()
    assert context.key() == bytes.fromhex(json.loads(sealed)["private"])


def test_recovery_keys_are_added_by_the_tpm(with_tpm: FakePi) -> None:
    from crfs.commands import recovery_key

    with_tpm.tokens["/dev/mmcblk0p2"] = [sealed_by_tpm(KEY)]
    assert recovery_key._own_key("/dev/mmcblk0p2") == KEY
    assert not with_tpm.changes()


def test_a_journal_with_an_unknown_binding_is_no_journal() -> None:
    content = json.loads(json.dumps(model.dump(plan())))
    assert model.load(model.Plan, content) == plan()
    with pytest.raises(ValueError, match="binding"):
        model.load(model.Plan, {**content, "binding": "yubikey"})


@pytest.mark.parametrize("binding", [HSM6, TPM2])
def test_what_the_encrypted_root_gets(tmp_path: Path, binding: str) -> None:
    dress.dress(tmp_path, plan(binding=binding), b"sealed")
    made = {str(one.relative_to(tmp_path)) for one in tmp_path.rglob("*") if one.is_file()}
    assert made <= dress.DRESSED
    script = tmp_path / "etc/initramfs-tools/scripts/crfs-tpm2"
    assert (tmp_path / model.SEALED_KEY).exists() == (binding == HSM6)
    assert script.exists() == (binding == TPM2)
    if binding == TPM2:
        assert script.stat().st_mode & 0o777 == 0o755


# --- verify


@pytest.fixture
def encrypted_by_tpm(encrypted: FakePi) -> FakePi:
    """A Pi on which everything is as it should be after a migration, with a TPM."""
    tpm2.DEVICE.touch()
    encrypted.tokens["/dev/mmcblk0p2"] = [sealed_by_tpm(KEY)]
    report = {"state": "done", "card": {"root_partuuid": "cafe0001-02"}, "binding": TPM2}
    Path(live.REPORT).write_text(json.dumps(report))
    encrypted.listing = "\n".join(f"a/{part}.x" for part in tpm2.IN_INITRAMFS)
    return encrypted


def failing(pi: FakePi) -> set[str]:
    rows = json.loads(pi.crfs("verify", "--json").out)
    return {one["id"] for one in rows if not one["ok"]}


def test_verify(encrypted_by_tpm: FakePi) -> None:
    assert encrypted_by_tpm.crfs("verify").code == 0
    encrypted_by_tpm.listing = ""
    assert failing(encrypted_by_tpm) == {"initramfs-tpm"}
    encrypted_by_tpm.tpm_answers = False
    assert failing(encrypted_by_tpm) == {"initramfs-tpm", "tpm"}
    encrypted_by_tpm.unlocked.clear()
    assert failing(encrypted_by_tpm) == {"initramfs-tpm", "tpm", "unlocked-by-tpm"}
    encrypted_by_tpm.tokens.clear()
    assert failing(encrypted_by_tpm) == {"initramfs-tpm", "tpm", "unlocked-by-tpm"}
