"""The script that asks the TPM, as it is, with a real one: swtpm and tpm2-tools on this machine."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from crfs.dress import TPM2_SCRIPT, scripts
from crfs.rehearsal.tpm import TpmProcess

pytestmark = pytest.mark.integration
SCRIPT = scripts() / TPM2_SCRIPT
KEY = bytes(range(64, 128))


@pytest.fixture
def tpm(tmp_path: Path) -> Iterator[TpmProcess]:
    with TpmProcess(tmp_path) as made:
        yield made


def ask(tpm: TpmProcess, what: str, given: bytes = b"", script: Path = SCRIPT) -> tuple[int, bytes]:
    """Exit code, and standard output or the last line of standard error.

    As in the initramfs, all that is not the TPM's own tool is busybox's.
    """
    with tpm.on_this_machine() as environment:
        applets = Path(environment["XDG_RUNTIME_DIR"]) / "applets"
        if not applets.exists():
            applets.mkdir()
            subprocess.run(["busybox", "--install", "-s", str(applets)], check=True)
        tools = environment["PATH"].split(":")[0]
        done = subprocess.run(
            [str(applets / "sh"), str(script), what],
            input=given,
            capture_output=True,
            check=False,
            env={**environment, "PATH": f"{tools}:{applets}"},
        )
        assert not list(Path(environment["XDG_RUNTIME_DIR"]).glob("crfs-tpm2*")), "left over"
    return done.returncode, done.stdout or done.stderr.strip().rpartition(b"\n")[2]


def sealed(tpm: TpmProcess) -> bytes:
    code, token = ask(tpm, "seal", KEY)
    assert code == 0, token
    return token


def test_what_is_sealed_opens_after_each_power_cycle(tpm: TpmProcess) -> None:
    assert ask(tpm, "ask")[0] == 0
    token = sealed(tpm)
    for _ in range(3):
        assert ask(tpm, "unseal", token) == (0, KEY)
    assert tpm.unlocks() == 3


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_in_the_tpm(tpm: TpmProcess, fails: bool) -> None:
    """A TPM has room for a few sessions only."""
    token = sealed(tpm)
    given = token.replace(b'"private":"AL', b'"private":"AM') if fails else token
    with tpm.on_this_machine() as environment:
        command = ["sh", str(SCRIPT), "unseal"]
        done = subprocess.run(command, input=given, capture_output=True, env=environment)
        assert done.returncode == fails, done.stderr
        for kind in ("loaded-session", "saved-session", "persistent"):
            command = ["tpm2", "getcap", f"handles-{kind}"]
            assert subprocess.check_output(command, env=environment) == b"", kind


def test_who_listens_on_the_bus_does_not_hear_the_key(tpm: TpmProcess, tmp_path: Path) -> None:
    token = sealed(tpm)
    assert ask(tpm, "unseal", token) == (0, KEY)
    assert not tpm.overheard(KEY)
    # The same without encryption is heard, so that the test can fail.
    careless = tmp_path / "careless"
    text = SCRIPT.read_text()
    assert "--enable-encrypt --enable-decrypt" in text
    careless.write_text(text.replace("--enable-encrypt --enable-decrypt", "--enable-audit"))
    assert ask(tpm, "unseal", token, careless) == (0, KEY)
    assert tpm.overheard(KEY)


def test_another_tpm_does_not_open_it(tpm: TpmProcess) -> None:
    token = sealed(tpm)
    tpm.clear()
    assert ask(tpm, "unseal", token) == (
        1,
        b"the key was sealed by another TPM, or this one was cleared since",
    )
    assert tpm.unlocks() == 0


def test_a_damaged_token_opens_nothing(tpm: TpmProcess) -> None:
    token = sealed(tpm).decode()
    private = token.partition('"private":"')[2].partition('"')[0]
    swapped = private[:40] + ("A" if private[40] != "A" else "B") + private[41:]
    for damaged, why in (
        (token.replace(private, swapped), b"does not accept the sealed key"),
        (token.replace(private, private[:40]), b"does not accept the sealed key"),
        (token.replace("private", "other"), b"there is no key sealed by a TPM"),
        ("", b"there is no key sealed by a TPM"),
        ("$(touch /tmp/x)\0\n" * 1000, b"there is no key sealed by a TPM"),
    ):
        code, said = ask(tpm, "unseal", damaged.encode())
        assert code == 1
        assert why in said


def test_without_a_tpm_it_says_so(tmp_path: Path) -> None:
    script = tmp_path / "script"
    text = SCRIPT.read_text().replace("/dev/tpmrm0", str(tmp_path / "none"))
    script.write_text(text.replace("WAIT_SECONDS=10", "WAIT_SECONDS=0"))
    done = subprocess.run(
        ["busybox", "sh", str(script), "ask"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.defpath},
    )
    assert (done.returncode, done.stderr) == (1, f"there is no TPM ({tmp_path}/none)\n")
