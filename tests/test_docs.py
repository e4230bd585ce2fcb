"""README.md is short, and its commands, suites and numbers are those of the code; test_site.py tests all documents."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from demo_table import demo_table
from identities import RECORDS
from kernel_tables import contract_rows, markdown
from site_pages import commands

from arvbench.harness.cli import command_line
from arvbench.harness.suites.built_in import built_in_suites
from arvbench.results.records import read_records

ROOT = Path(__file__).parent.parent
MOST_LINES, MOST_BYTES = 150, 300_000


def command_lines(program: str) -> list[list[str]]:
    """Arguments of every call of a program in the code blocks of README.md."""
    calls = [shlex.split(line, comments=True) for line in commands((ROOT / "README.md").read_text())
             if re.match(rf"{program}\b", line)]  # fmt: skip
    assert calls, f"README.md calls {program} nowhere: has the form of its code blocks changed?"
    return [arguments for _, *arguments in calls]


@pytest.mark.parametrize("arguments", command_lines("arvbench"), ids=" ".join)
def test_commands_in_the_readme_have_verbs_and_options_that_exist(arguments: list[str]) -> None:
    root = command_line()
    verb, *rest = arguments
    assert verb in root.commands
    root.commands[verb].make_context(verb, rest)  # raises a usage error


def test_suites_in_the_readme_exist() -> None:
    suites = {arguments[1] for arguments in command_lines("arvbench") if arguments[0] == "run"}
    assert suites and suites <= built_in_suites().keys()


def test_make_targets_in_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {arguments[0] for arguments in command_lines("make")} <= targets


def test_the_readme_is_short_and_has_one_small_picture() -> None:
    text = (ROOT / "README.md").read_text()
    assert text.count("\n") < MOST_LINES
    (picture,) = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
    assert (ROOT / picture).stat().st_size < MOST_BYTES


def test_the_demo_table_of_readme_is_that_of_the_committed_run() -> None:
    assert demo_table(read_records(RECORDS)) in (ROOT / "README.md").read_text(), (
        "renew it with `python tests/support/demo_table.py tests/golden/identities/records.jsonl`"
    )


def test_the_contract_of_the_kernels_is_that_of_their_specs() -> None:
    """`python tests/support/kernel_tables.py contract` prints the table."""
    assert markdown(contract_rows()) in (ROOT / "docs" / "kernels.md").read_text()
