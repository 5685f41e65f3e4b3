"""The documentation says what the code says: generated pages, options, codes, steps, links."""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

import crfs
from crfs import cli, errors, log, machine, progress, steps
from crfs.commands import verify
from crfs.errors import CrfsError

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
README = ROOT / "README.md"
MAN = DOCS / "crfs.8"
HOW = DOCS / "how-it-works.md"
TROUBLE = DOCS / "troubleshooting.md"
PAGES = sorted([README, ROOT / "CHANGELOG.md", *DOCS.glob("*.md")])
# Not documented: only cfg_SD_crfs.service calls it.
HIDDEN = {"run"}


def _man() -> str:
    """The manual page without the escapes of its hyphens."""
    return MAN.read_text().replace("\\-", "-")


def _parsers() -> dict[str, argparse.ArgumentParser]:
    found = dict(_parsers_of(cli.build_parser()))
    return {name: parser for name, parser in found.items() if name not in HIDDEN}


def _parsers_of(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Commands with their parsers, those of commands below a command as well ("hsm info")."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield name, below
                yield from ((f"{name} {more}", one) for more, one in _parsers_of(below))


def _options(parser: argparse.ArgumentParser) -> list[str]:
    return [
        text
        for action in parser._actions
        for text in action.option_strings
        if text not in ("-h", "--help")
    ]


def _all_options() -> list[tuple[str, str]]:
    return [(name, option) for name, parser in _parsers().items() for option in _options(parser)]


def _error_kinds() -> list[type[CrfsError]]:
    return [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, CrfsError)
    ]


def _gen_docs() -> ModuleType:
    return _tool("gen-docs")


def _tool(name: str) -> ModuleType:
    loader = SourceFileLoader(name.replace("-", "_"), str(ROOT / "tools" / name))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


def _section(text: str, heading: str) -> str:
    """A page's text from a heading to the next one of the same rank or a higher one."""
    rank = len(heading.split()[0])
    start = text.index(f"\n{heading}\n")
    end = re.search(rf"(?m)^#{{1,{rank}}} ", text[start + len(heading) + 2 :])
    return text[start : start + len(heading) + 2 + end.start()] if end else text[start:]


# --- what is generated ---------------------------------------------------------------------------


def test_generated_pages_are_up_to_date() -> None:
    for path, text in _gen_docs().outputs().items():
        assert path.read_text() == text, f"{path.name} is out of date: run tools/gen-docs"


def test_pictures_of_terminals_show_what_was_printed() -> None:
    tool = _tool("screens")
    assert set(tool.outputs()) == {DOCS / f"{path.stem}.svg" for path in tool.TEXTS.glob("*.txt")}
    for path, text in tool.outputs().items():
        assert path.read_text() == text, f"{path.name} is out of date: run tools/screens"


def test_an_outdated_page_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tool = _gen_docs()
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    monkeypatch.setattr(tool, "DOCS", tmp_path)
    assert tool.main(["--check"]) == 1
    assert "steps.md is out of date" in capsys.readouterr().out
    assert tool.main([]) == 0
    assert tool.main(["--check"]) == 0


def test_steps_page_has_every_step_and_transition() -> None:
    page = (DOCS / "steps.md").read_text()
    for step in steps.ALL:
        assert f"| `{step.id}` | {step.title} |" in page
    for trigger, source, target in _gen_docs().edges():
        assert f"{source} --> {target}: {trigger}" in page


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.svg")), ids=lambda path: str(path.name))
def test_pictures_are_whole_and_readable_in_the_dark(path: Path) -> None:
    root = ElementTree.parse(path).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "prefers-color-scheme: dark" in path.read_text()


def test_the_picture_shows_every_state() -> None:
    picture = (DOCS / "states.svg").read_text()
    assert all(f">{state}</text>" in picture for state in machine.STATES)


# --- power cuts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("state", list(steps.BY_STATE))
def test_every_step_has_a_row_in_the_table_of_power_cuts(state: str) -> None:
    cuts = _section(HOW.read_text(), "## Power cuts")
    headings = re.findall(rf"(?m)^### `{state}`.*$", cuts)
    assert len(headings) == 1, f"Power cuts has no part for the state {state}"
    rows = re.findall(r"(?m)^\| `([^`]+)` \|", _section(cuts, headings[0]))
    assert rows == [step.id for step in steps.BY_STATE[state]]


def test_every_state_is_in_the_table_of_reconciliation() -> None:
    told = set(re.findall(r"(?m)^\| `(\w+)` \|", _section(HOW.read_text(), "## The journal")))
    assert told == set(machine.STATES)


def test_numbers_of_attempts_are_those_of_the_code() -> None:
    page = HOW.read_text()
    assert f"after {machine.MAX_TRIALS} trials" in page
    assert f"stopped {machine.MAX_ATTEMPTS} times" in page


# --- commands, options, codes --------------------------------------------------------------------


@pytest.mark.parametrize("name", list(_parsers()))
def test_subcommands_are_documented(name: str) -> None:
    assert f"`crfs {name}`" in README.read_text()
    assert f".TP\n.B crfs {name}\n" in _man()


@pytest.mark.parametrize(("command", "option"), _all_options(), ids=" ".join)
def test_options_are_documented(command: str, option: str) -> None:
    assert re.search(rf"`{re.escape(option)}\b", README.read_text()), f"{option} is not in README"
    start = _man().index(f".TP\n.B crfs {command}\n")
    part = re.split(r"\n\.TP\n\.B crfs |\n\.SH ", _man()[start + 1 :])[0]
    assert re.search(rf"(?m)^\.BI? {re.escape(option)}\b", part), f"{option} is not in crfs.8"


def test_no_option_is_documented_that_does_not_exist() -> None:
    known = {option for _, option in _all_options()} | {"--help", "--version"}
    told = set(re.findall(r"(?m)^\.BI? (--[a-z-]+)", _man()))
    told |= set(re.findall(r"(?m)^\| `(--[a-z-]+)", README.read_text()))
    assert told <= known


def test_exit_codes_are_distinct() -> None:
    codes = [kind.code for kind in _error_kinds()]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("kind", _error_kinds(), ids=lambda kind: str(kind.__name__))
def test_exit_codes_are_documented(kind: type[CrfsError]) -> None:
    assert f"| {kind.code} | {kind.__name__} | " in _section(README.read_text(), "## Exit codes")
    assert f"\n.TP\n.B {kind.code}\n" in MAN.read_text()
    assert f"\n### {kind.__name__} ({kind.code})\n" in TROUBLE.read_text()


def test_no_exit_code_is_documented_that_does_not_exist() -> None:
    known = {kind.code for kind in _error_kinds()} | {0, 130}
    table = _section(README.read_text(), "## Exit codes")
    assert {int(code) for code in re.findall(r"(?m)^\| (\d+) \|", table)} == known
    assert {int(code) for code in re.findall(r"(?m)^\.B (\d+)$", MAN.read_text())} == known


# --- log, checks, report -------------------------------------------------------------------------


def test_message_ids_and_fields_are_documented() -> None:
    for page in (TROUBLE.read_text(), _man()):
        assert set(re.findall(r"\b5f0a[0-9a-f]{28}\b", page)) == set(log.MESSAGE_IDS.values())
    source = inspect.getsource(progress)
    assert "percent=" in source and "seconds_left=" in source
    for field in ("CRFS_STEP", "CRFS_PERCENT", "CRFS_SECONDS_LEFT"):
        assert field in TROUBLE.read_text()
        assert field in _man()


def test_checks_of_verify_are_documented() -> None:
    page = _section(TROUBLE.read_text(), "## crfs verify finds something missing")
    assert re.findall(r"(?m)^\| `([^`]+)` \|", page) == [
        row[0] for row in (*verify._OF_ALL, *verify._OF_HSM6, *verify._OF_TPM2)
    ]


def test_fields_of_the_rehearsal_report_are_documented() -> None:
    # Read, not imported: the rehearsal needs packages that the Pi does not have.
    tree = ast.parse((ROOT / "crfs/rehearsal/rehearse.py").read_text())
    (report,) = (
        node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Report"
    )
    fields = [
        node.target.id
        for node in report.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    ]
    page = _section((DOCS / "rehearsal.md").read_text(), "## What comes out")
    rows = "\n".join(re.findall(r"(?m)^\| (`.*?) \|", page))
    assert set(re.findall(r"`([^`]+)`", rows)) == set(fields)


# --- threat model


def _outcomes() -> list[list[str]]:
    """The rows of the table of attackers and outcomes."""
    page = _section((DOCS / "threat-model.md").read_text(), "## Who gets what")
    rows = [line.strip("| ").split(" | ") for line in page.split("\n") if line.startswith("|")]
    return rows[2:]


@pytest.mark.parametrize("row", _outcomes(), ids=lambda row: str(row[0]))
def test_every_outcome_has_a_test_or_is_argued(row: list[str]) -> None:
    assert len(row) == 4
    tests = re.findall(r"`([^`]+)`", row[3])
    assert tests or "argued" in row[3]
    for one in tests:
        path, _, name = one.partition("::")
        tree = ast.parse((ROOT / path).read_text())
        assert name in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)], one


# --- pages ---------------------------------------------------------------------------------------


def _anchors(path: Path) -> set[str]:
    """The anchors that a Markdown page gets from its headings."""
    text = re.sub(r"(?ms)^```.*?^```$", "", path.read_text())
    return {
        re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-")
        for heading in re.findall(r"(?m)^#+ (.*)$", text)
    }


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.name))
def test_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.is_relative_to(ROOT) and target.exists(), f"{path.name}: {link}"
        assert not anchor or anchor in _anchors(target), f"{path.name}: {link}"


def test_every_page_is_reached_from_the_readme() -> None:
    links = set(re.findall(r"\]\(([^)#\s]+)", README.read_text()))
    assert {f"docs/{path.name}" for path in DOCS.glob("*.md")} <= links


def test_readme_has_the_two_commands_in_their_order() -> None:
    found = re.findall(r"(?m)^make \w+$", README.read_text())
    assert found == ["make rehearse", "make test"]


def test_one_version_everywhere() -> None:
    version = crfs.__version__
    assert f'"crfs {version}"' in MAN.read_text().split("\n")[0]
    assert re.findall(r"(?m)^## (\S+)", (ROOT / "CHANGELOG.md").read_text())[0] == version
    assert (ROOT / "debian/changelog").read_text().startswith(f"crfs ({version})")


@pytest.mark.real_commands
def test_exposure_of_the_unit_is_as_told() -> None:
    """The figure is that of Debian 12's systemd."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    argv = ["systemd-analyze", "security", "--offline=true", "--no-pager"]
    unit = str(ROOT / "systemd/cfg_SD_crfs.service")
    done = subprocess.run([*argv, unit], capture_output=True, text=True, check=False)
    (figure,) = re.findall(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert f"`systemd-analyze security cfg_SD_crfs` says {figure} " in HOW.read_text()


@pytest.mark.real_commands
@pytest.mark.parametrize(
    "argv", [["mandoc", "-T", "lint"], ["groff", "-man", "-Tutf8", "-ww", "-z"]]
)
def test_the_manual_page_is_well_formed(argv: list[str]) -> None:
    if shutil.which(argv[0]) is None:
        pytest.skip(f"{argv[0]} is not installed")
    done = subprocess.run([*argv, str(MAN)], capture_output=True, text=True, check=False)
    assert done.stdout + done.stderr == ""
