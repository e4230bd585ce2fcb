"""Reproduction of a report: the recorded cases as a suite file, and the commands that run it.

The recorded cases hold all options of `arvbench run` (models, settings, device, weights): the suite needs none.
"""

from __future__ import annotations

import glob
import json
import shlex
from collections.abc import Sequence
from typing import Any

import yaml

from arvbench.reports.numbers import plain
from arvbench.results.schema import CaseConfig, Record
from arvbench.results.search import searches
from arvbench.results.search_request import SearchRequest

SUITE_FILE = "reproduce.yaml"
SUITE_NAME = "reproduce"
"""Name of the suite, and so of its run folder: a new one, without earlier records."""


def reproduction_suite(records: Sequence[Record]) -> str:
    """Write the recorded cases as the YAML of a suite, each once, without fields that are at their defaults.

    The text is printable ASCII, and each value of a record stays one scalar.
    """
    suites = ", ".join(dict.fromkeys(record.suite for record in records))
    entries = [_entry(case) for case in _asked_for(records)]
    distinct = {json.dumps(entry, sort_keys=True, default=str): entry for entry in entries}
    content = {
        "name": SUITE_NAME,
        "description": f"The cases of a report of {suites}",
        "cases": [*distinct.values()],
    }
    # The writer in C, where PyYAML has it, takes a tenth of the time for a sweep.
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return str(yaml.dump(content, Dumper=dumper, sort_keys=False, default_flow_style=None, width=100))


def _asked_for(records: Sequence[Record]) -> list[CaseConfig]:
    """Return the cases of records: of a search its first try alone, which asks for the whole of it."""
    firsts: dict[str, CaseConfig] = {}
    for search in searches(records):
        requests = [record.case.search for record in search.tries if record.case.search is not None]
        most = max(requests, key=lambda request: (request.budget, request.confirm))
        whole = search.tries[0].case.model_copy(update={"search": most})
        firsts |= {record.record_id: whole for record in (*search.tries, *search.confirmations)}
    return [firsts.get(record.record_id, record.case) for record in records]


def _entry(case: CaseConfig) -> dict[str, Any]:
    """Write a case as a suite entry. Models in a suite are patterns, so the name is escaped to match literally.

    With a recipe, a field at its default may be a change of the recipe: every field that a recipe can set is written.
    """
    entry = case.model_dump(exclude_defaults=True) | {"model": glob.escape(case.model)}
    if case.search is not None:
        entry = _search_entry(entry, case.search)
    if case.recipe is not None:
        if case.search is None or "dtype" not in case.search.over:
            entry["dtype"] = case.dtype
        entry |= {"quality": case.quality.model_dump()} if case.quality else {}
    return entry


def _search_entry(entry: dict[str, Any], request: SearchRequest) -> dict[str, Any]:
    """Write a try as its search, without the values of its point."""
    settings = {key: value for key, value in entry.get("settings", {}).items() if f"settings.{key}" not in request.over}
    asked = request.model_dump(exclude_defaults=True, exclude={"number", "tries", "confirmation"})
    kept = {key: value for key, value in entry.items() if key not in (*request.over, "settings", "search")}
    return kept | ({"settings": settings} if settings else {}) | {"search": asked}


def reproduction_commands(records: Sequence[Record]) -> tuple[str, ...]:
    """List the commands that run the suite, saved as SUITE_FILE; first a checkout when all records name one commit."""
    commits = {record.environment.git_commit for record in records}
    checkout = [f"git checkout {shlex.quote(plain(commit))}" for commit in commits if commit and len(commits) == 1]
    return (*checkout, f"arvbench run {SUITE_FILE}")
