"""Files, commands, suites and targets named in README.md and CONTRIBUTING.md exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
from demo_table import demo_table
from identities import RECORDS
from kernel_tables import contract_rows, markdown

from arvbench.harness.cli import program
from arvbench.harness.suites.built_in import built_in_suites
from arvbench.harness.suites.suite import load_suite
from arvbench.results.records import read_records

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"\]\(<?([^)>\s]+)[^)]*\)|<(?:img|a)\b[^>]*?(?:src|href)=[\"']([^\"']+)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def code_lines(text: str) -> list[str]:
    """Lines of the fenced and the indented code blocks."""
    fenced = [line for _, block in FENCE.findall(text) for line in block.splitlines()]
    return fenced + [line.strip() for line in FENCE.sub("", text).splitlines() if line.startswith("    ")]


def command_lines(program: str) -> list[list[str]]:
    """Arguments of every call of a program in the code blocks of README.md."""
    calls = [shlex.split(line, comments=True) for line in code_lines((ROOT / "README.md").read_text())
             if re.match(rf"{program}\b", line)]  # fmt: skip
    assert calls, f"README.md calls {program} nowhere: has the form of its code blocks changed?"
    return [arguments for _, *arguments in calls]


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_local_links_and_images_exist(document: str) -> None:
    targets = [markdown or html for markdown, html in LINK.findall((ROOT / document).read_text())]
    local = {target.partition("#")[0] for target in targets if not re.match(r"[a-z]+:", target)} - {""}
    missing = sorted(target for target in local if not (ROOT / target).exists())
    assert not missing, f"{document} refers to files that are not here: {missing}"


def test_the_links_of_the_readme_are_found() -> None:
    assert "CONTRIBUTING.md" in {link for link, _ in LINK.findall((ROOT / "README.md").read_text())}


@pytest.mark.parametrize("arguments", command_lines("arvbench"), ids=" ".join)
def test_commands_in_the_readme_have_verbs_and_options_that_exist(arguments: list[str]) -> None:
    command_line = typer.main.get_command(program())
    verb, *rest = arguments
    assert verb in command_line.commands
    command_line.commands[verb].make_context(verb, rest)  # raises a usage error


def test_suites_in_the_readme_exist() -> None:
    suites = {arguments[1] for arguments in command_lines("arvbench") if arguments[0] == "run"}
    assert suites and suites <= built_in_suites().keys()


def test_make_targets_in_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {arguments[0] for arguments in command_lines("make")} <= targets


def test_the_suite_in_the_readme_loads(tmp_path: Path) -> None:
    (suite,) = [block for language, block in FENCE.findall((ROOT / "README.md").read_text()) if language == "yaml"]
    (tmp_path / "mine.yaml").write_text(suite)
    assert load_suite(str(tmp_path / "mine.yaml")).cases


def test_the_demo_table_of_readme_is_that_of_the_committed_run() -> None:
    assert demo_table(read_records(RECORDS)) in (ROOT / "README.md").read_text(), (
        "renew it with `python tests/support/demo_table.py tests/golden/identities/records.jsonl`"
    )


def test_the_contract_of_the_kernels_is_that_of_their_specs() -> None:
    """`python tests/support/kernel_tables.py contract` prints the table."""
    assert markdown(contract_rows()) in (ROOT / "docs" / "kernels.md").read_text()


@pytest.mark.parametrize("document", ["kernels.md", "versus.md"])
def test_commands_in_the_pages_on_kernels_and_official_code_exist(document: str) -> None:
    lines = [shlex.split(line) for line in code_lines((ROOT / "docs" / document).read_text())]
    calls = [words for words in lines if words[0] == "arvbench"]
    assert calls
    for _, verb, *rest in calls:
        typer.main.get_command(program()).commands[verb].make_context(verb, rest)
