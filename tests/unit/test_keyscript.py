"""The keyscript of the initramfs, run by busybox as there; stand-ins for HSM, TPM and header."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from crfs import recovery
from crfs.rehearsal.hsm import Hsm

HOOKS = Path(__file__).resolve().parents[2] / "initramfs-hooks"
KEY = recovery.derive(bytes(512), "run")
pytestmark = pytest.mark.real_commands


def program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def ask(
    folder: Path,
    *,
    tried: int,
    typed: str,
    hsm: str = "exit 1",
    said: str = "hsm is silent",
    tpm: str = "",
) -> tuple[int, str, str]:
    """Exit code, standard output and error of the keyscript at the given try."""
    tool = program(folder / "zkunlockifs", f"echo '{said}' >&2\n{hsm}")
    console = folder / "console"
    script_of_tpm = folder / "crfs-tpm2"
    if tpm:
        program(script_of_tpm, tpm)
    console.write_text(typed)
    text = (HOOKS / "zk_get_key").read_text()
    for name, path in {
        "/sbin/zkunlockifs": tool,
        "/scripts/crfs-functions": HOOKS / "functions",
        "/scripts/crfs-tpm2": script_of_tpm,
        "/run/crfs": folder / "run",
        "/dev/console": console,
        "sleep 2": ":",
        "stty": ": stty",
    }.items():
        assert str(name) in text
        text = text.replace(str(name), str(path))
    script = folder / "script"
    script.write_text(text)
    done = subprocess.run(
        ["busybox", "sh", str(script)],
        capture_output=True,
        text=True,
        env={
            "CRYPTTAB_TRIED": str(tried),
            "CRYPTTAB_NAME": "cryptrfs",
            "CRYPTTAB_SOURCE": "/dev/sdx2",
            "PATH": f"{folder}:/usr/bin:/bin",
        },
    )
    return done.returncode, done.stdout, done.stderr


def test_the_hsm_comes_first(tmp_path: Path) -> None:
    code, out, _ = ask(tmp_path, tried=5, typed=KEY, hsm="printf key; exit 0")
    assert (code, out) == (0, "key")
    assert (tmp_path / "run/unlocked").read_text().startswith("cryptrfs ")


@pytest.mark.parametrize("tried", [0, 1, 2])
def test_the_hsm_has_its_chances(tmp_path: Path, tried: int) -> None:
    code, out, err = ask(tmp_path, tried=tried, typed=KEY)
    assert (code, out) == (1, "")
    assert "hsm is silent" in err
    assert "recovery" not in err


@pytest.mark.parametrize("typed", [KEY, KEY.upper(), KEY.replace("-", " "), KEY.replace("-", "")])
def test_the_recovery_key_however_it_is_typed(tmp_path: Path, typed: str) -> None:
    code, out, err = ask(tmp_path, tried=3, typed=typed + "\n")
    assert (code, out) == (0, KEY)
    assert not (tmp_path / "run/unlocked").exists(), "it was not the HSM"
    assert KEY not in err


SPLASH = """
echo "$*" >>"${0%/*}/asked"
echo noise; echo noise >&2
case "$1" in
    --ping) [ -e "${0%/*}/splash" ] ;;
    quit) rm "${0%/*}/splash"; cat "${0%/*}/keyboard" >"${0%/*}/console" ;;
    *) exit 3 ;;
esac
"""


def test_a_splash_screen_gives_back_the_keyboard_first(tmp_path: Path) -> None:
    """While it is shown, what is typed does not get to the console."""
    program(tmp_path / "plymouth", SPLASH)
    (tmp_path / "keyboard").write_text(KEY + "\n")
    (tmp_path / "splash").touch()
    code, out, err = ask(tmp_path, tried=3, typed="")
    assert (code, out) == (0, KEY)
    assert "noise" not in err
    assert not (tmp_path / "splash").exists()


def test_a_splash_screen_stays_while_nothing_is_asked(tmp_path: Path) -> None:
    program(tmp_path / "plymouth", SPLASH)
    (tmp_path / "splash").touch()
    assert ask(tmp_path, tried=2, typed="")[:2] == (1, "")
    assert ask(tmp_path, tried=3, typed="", hsm="printf key; exit 0")[:2] == (0, "key")
    assert (tmp_path / "splash").exists()


def test_without_a_splash_screen_none_is_told_to_go(tmp_path: Path) -> None:
    program(tmp_path / "plymouth", SPLASH)
    code, out, _ = ask(tmp_path, tried=3, typed=KEY + "\n")
    assert (code, out) == (0, KEY)
    assert (tmp_path / "asked").read_text() == "--ping\n"


def test_an_empty_line_asks_the_hsm_again(tmp_path: Path) -> None:
    for typed in ("\n", ""):
        code, out, err = ask(tmp_path, tried=3, typed=typed)
        assert (code, out) == (1, "")
        assert "nothing was typed" in err


def test_a_wrong_key_is_said_to_be_wrong(tmp_path: Path) -> None:
    code, out, err = ask(tmp_path, tried=3, typed="password\n")
    assert code == 0
    assert out != KEY
    assert "was not the recovery key" in err


@pytest.mark.parametrize(
    ("state", "meaning"),
    [
        ({"answering": "silent"}, "it is silent"),
        ({"production": True, "bound_card": "another"}, "it is locked to another Pi or card"),
        ({"destroyed_by": "tampered"}, "it was tampered with"),
        ({"destroyed_by": "battery low, self-destructed"}, "its battery was low"),
        ({}, "the key was sealed by another HSM"),
    ],
)
def test_the_word_of_the_hsm_is_explained(
    tmp_path: Path, state: dict[str, Any], meaning: str
) -> None:
    """In the words of the module itself; silence is what its tool says after a while."""
    module, other = Hsm(tmp_path / "hsm.json"), Hsm(tmp_path / "other.json")
    for name, value in state.items():
        setattr(module.state, name, value)
    said = "zkunlockifs: HSM does not answer (-110)"
    if module.state.answering == "ok":
        said = module.answer("unlock", other.seal(b"key"))[1].decode()
    code, out, err = ask(tmp_path, tried=0, typed="", said=said)
    assert (code, out) == (1, "")
    assert said in err
    assert f"crfs: {meaning}" in err


TOKEN = '{"type":"crfs-tpm2","keyslots":["0"],"private":"sealed"}'
# The recovery key's token comes first, and number 1 is free.
HEADER = f"""
[ "$*" != "isLuks /dev/sdx2" ] || exit 0
[ "$*" = "token export --token-id $4 /dev/sdx2" ] || exit 3
case "$4" in
    0) echo '{{"type":"crfs-recovery","keyslots":["1"]}}' ;;
    2) echo '{TOKEN}' ;;
    *) echo "Token $4 is not in use." >&2; exit 1 ;;
esac
"""


def test_a_tpm_gets_the_token_of_the_header(tmp_path: Path) -> None:
    program(tmp_path / "cryptsetup", HEADER)
    tpm = f"""[ "$1 $(cat)" = 'unseal {TOKEN}' ] && printf key"""
    code, out, err = ask(tmp_path, tried=0, typed="", tpm=tpm)
    assert (code, out, err) == (0, "key", "")
    assert (tmp_path / "run/unlocked").read_text().startswith("cryptrfs ")


def test_a_header_without_a_token_has_the_tpm_asked_for_nothing(tmp_path: Path) -> None:
    program(tmp_path / "cryptsetup", "exit 1")
    tpm = """[ -n "$(cat)" ] || { echo 'noise' >&2; echo 'no sealed key' >&2; exit 1; }"""
    code, out, err = ask(tmp_path, tried=0, typed="", tpm=tpm)
    assert (code, out) == (1, "")
    assert "the TPM did not open the key: no sealed key" in err
    assert "noise" not in err


def test_the_recovery_key_when_the_tpm_does_not_answer(tmp_path: Path) -> None:
    program(tmp_path / "cryptsetup", HEADER)
    code, out, err = ask(tmp_path, tried=3, typed=KEY + "\n", tpm="cat >/dev/null; exit 1")
    assert (code, out) == (0, KEY)
    assert "the TPM is asked again" in err
    assert not (tmp_path / "run/unlocked").exists()
