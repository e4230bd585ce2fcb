"""How to measure the same again: the recorded cases as a suite file, and the commands that run it.

What `arvbench run` was given (models, settings, device, weights) is in the recorded cases: the suite needs no options.
"""

from __future__ import annotations

import glob
import shlex
from collections.abc import Sequence
from typing import Any

import yaml

from arvbench.reports.numbers import plain
from arvbench.results.schema import CaseConfig, Record

SUITE_FILE = "reproduce.yaml"
SUITE_NAME = "reproduce"
"""A name of its own: the run gets its own folder, where nothing is recorded yet."""


def reproduction_suite(records: Sequence[Record]) -> str:
    """YAML of a suite with the recorded cases, each once, without the fields that are at their defaults.

    The text is printable ASCII, and whatever a record holds stays one scalar in it.
    """
    suites = ", ".join(dict.fromkeys(record.suite for record in records))
    cases = [_entry(record.case) for record in records]
    content = {
        "name": SUITE_NAME,
        "description": f"The cases of a report of {suites}",
        "cases": [case for place, case in enumerate(cases) if case not in cases[:place]],
    }
    return yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=100)


def _entry(case: CaseConfig) -> dict[str, Any]:
    """A case as an entry of a suite, where a model is a pattern: its own name must match nothing else.

    With a recipe, a field at its default may be a change of the recipe: all that one can decide is written.
    """
    entry = case.model_dump(exclude_defaults=True) | {"model": glob.escape(case.model)}
    if case.recipe is not None:
        entry |= {"dtype": case.dtype} | ({"quality": case.quality.model_dump()} if case.quality else {})
    return entry


def reproduction_commands(records: Sequence[Record]) -> tuple[str, ...]:
    """The commands that run the suite, saved as SUITE_FILE, with the same code where one commit is known for all."""
    commits = {record.environment.git_commit for record in records}
    checkout = [f"git checkout {shlex.quote(plain(commit))}" for commit in commits if commit and len(commits) == 1]
    return (*checkout, f"arvbench run {SUITE_FILE}")
