"""Editing config.txt and the kernel's command line."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from crfs import bootconfig, bootfiles
from tests.unit.hostile import file_text
from tests.unit.pi import UUIDS, plan

configs = st.binary(max_size=300).filter(lambda raw: b"# crfs:" not in raw)
names = st.sampled_from(["cmdline.txt", "crfs-stage.txt", "crfs-root-trial.txt"])
words = st.sampled_from(
    [
        "quiet",
        "splash",
        "ro",
        "rw",
        "root=PARTUUID=cafe0001-02",
        "root=/dev/nfs",
        "rootwait",
        "rootflags=discard",
        "rootfstype=ext4",
        "systemd.unit=rescue.target",
        "panic=1",
        "console=serial0,115200",
        'dyndbg="file a.c +p; file b.c +p"',
        "cryptdevice=x",
        "roots=keep",
        'quoted="a root=b c"',
    ]
)
cmdlines = st.lists(words, max_size=12).map(" ".join)


@given(configs, names)
@example(b"", "cmdline.txt")
@example(b"no line end", "cmdline.txt")
@example(b"a\r\n[pi4]\r\n", "crfs-stage.txt")
@example(b"\n\n\n", "crfs-stage.txt")
def test_block_is_taken_out_exactly(config: bytes, name: str) -> None:
    assert bootfiles.without_block(config) == config
    with_block = bootfiles.with_block(config, name)
    assert with_block.startswith(config)
    assert bootfiles.without_block(with_block) == config


@given(configs, names, names)
def test_block_is_there_once(config: bytes, first: str, second: str) -> None:
    twice = bootfiles.with_block(bootfiles.with_block(config, first), second)
    assert twice == bootfiles.with_block(config, second)
    assert twice.count(bootconfig.BEGIN.encode()) == 1


@given(configs)
def test_block_overrules_what_stands_before(config: bytes) -> None:
    changed = bootfiles.with_block(b"cmdline=mine.txt\n[cm4]\n" + config, "crfs-stage.txt")
    assert bootfiles.setting(changed, "cmdline") == "crfs-stage.txt"
    assert bootfiles.setting(changed, "auto_initramfs") == "0"
    block = changed[changed.index(bootconfig.BEGIN.encode()) :]
    assert block.split(b"\n")[1] == b"[all]"


@given(file_text, st.sampled_from(["cmdline", "os_prefix", "a.b"]))
def test_setting_of_anything(text: str, name: str) -> None:
    raw = text.encode(errors="surrogateescape")
    assert isinstance(bootfiles.setting(raw, name), str)
    assert bootfiles.setting(raw + f"\n {name} = last.txt\r\n".encode(), name) == "last.txt"


def test_comments_and_longer_names_are_no_setting() -> None:
    config = b"#cmdline=no.txt\nxcmdline=no.txt\ncmdlines=no.txt\n"
    assert bootfiles.setting(config, "cmdline") == ""


@given(file_text)
def test_tokens_lose_nothing_but_blanks(text: str) -> None:
    found = bootconfig.tokens(text)
    assert "".join("".join(found).split()) == "".join(text.split())
    assert bootconfig.tokens(" ".join(found)) == found


def test_quoted_blanks_stay_in_their_word() -> None:
    line = 'a dyndbg="file x +p" b="c d'
    assert bootconfig.tokens(line) == ["a", 'dyndbg="file x +p"', 'b="c d']


@given(cmdlines, st.booleans())
def test_final_command_line_is_the_users_own(original: str, keep_shell: bool) -> None:
    final = bootconfig.final_cmdline(original, keep_shell=keep_shell)
    assert bootconfig.final_cmdline(final, keep_shell=keep_shell) == final
    assert final.endswith("\n")
    assert final.count("\n") == 1
    assert bootconfig.token(final, "root") == "/dev/mapper/cryptrfs"
    replaced = ("root", "cryptdevice")
    kept = [w for w in bootconfig.tokens(original) if w.partition("=")[0] not in replaced]
    offers_shell = keep_shell or bootconfig.token(original, "panic") is not None
    shell = [] if offers_shell else ["panic=10"]
    assert bootconfig.tokens(final) == [*kept, *shell, "root=/dev/mapper/cryptrfs"]


@given(cmdlines, st.booleans(), st.booleans())
def test_trial_command_lines(original: str, trial: bool, tryboot: bool) -> None:
    journey = plan(tryboot=tryboot)
    for build, target, device in (
        (bootconfig.stage_cmdline, "stage", "cryptstage"),
        (bootconfig.root_cmdline, "root", "cryptrfs"),
    ):
        found = bootconfig.tokens(build(original, journey, trial=trial))
        roots = [one for one in found if one.partition("=")[0] == "root"]
        assert roots == [f"root=/dev/mapper/{device}"]
        assert f"crfs.boot={target}" in found
        assert f"crfs.bootfs={journey.card.boot_partuuid}" in found
        assert [one for one in found if one.startswith("panic=")] == ["panic=10"]
        assert ("crfs.trial=1" in found) == trial
        assert ("crfs.oneshot=1" in found) == (trial and not tryboot)
        # A kernel cuts the end of a line that is too long.
        ours = [n for n, one in enumerate(found) if one.startswith(("crfs.", "panic="))]
        assert ours == list(range(len(ours)))
        assert not {"quiet", "splash"} & set(found)
        for word in bootconfig.tokens(original):
            if word in ("rootwait", "roots=keep", 'quoted="a root=b c"', "console=serial0,115200"):
                assert word in found


def test_stage_runs_the_small_system_with_network_and_ssh() -> None:
    line = bootconfig.stage_cmdline("quiet", plan(), trial=True)
    assert "systemd.unit=crfs-stage.target" in line
    assert "systemd.wants=ssh.service" in line
    assert f"source=UUID={UUIDS.stage_luks}" in line


def test_stage_is_not_checked_but_the_boot_partition_is() -> None:
    """initramfs-tools knows "skip" only, wherever it stands; for systemd the last one counts."""
    found = bootconfig.tokens(bootconfig.stage_cmdline("fsck.repair=yes", plan(), trial=True))
    assert [one for one in found if one.startswith("fsck.mode=")] == [
        "fsck.mode=skip",
        "fsck.mode=auto",
    ]
