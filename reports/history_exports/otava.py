"""Apache Otava: CSV files with a column for time, one for the commit and one for each number, and its otava.yaml.

A file has the numbers of one case that were measured at equal commits, since Otava reads no empty cell: other series
have files of their own. Otava orders nothing: rows are in the order of commits, and times rise with them by a second at
least, where clocks do not.

Source   apache/otava, docs/CSV.md; direction is -1 where lower is better
"""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from arvbench.results.history import History, NumberHistory


def otava(history: History, path: Path) -> Mapping[Path, str]:
    """Return the CSV files and, beside them, the configuration that names them: `path` with the ending .yaml."""
    groups: dict[tuple[object, ...], list[NumberHistory]] = defaultdict(list)
    for number in history.numbers:
        commits = tuple(point.commit for point in number.points)
        groups[number.hardware, number.method, number.case, commits].append(number)
    files: dict[Path, str] = {}
    tests: dict[str, dict[str, Any]] = {}
    for place, numbers in enumerate(groups.values(), start=1):
        file = path if len(groups) == 1 else path.with_name(f"{path.stem}-{place}{path.suffix or '.csv'}")
        columns = _columns(numbers)
        files[file] = _table(numbers, columns)
        tests[f"{_word(numbers[0].case)}-{place}"] = {
            "type": "csv",
            "file": str(file),
            "time_column": "time",
            "attributes": ["commit"],
            "metrics": {
                column: {"column": column, "direction": -1 if number.lower_is_better else 1, "scale": 1}
                for column, number in zip(columns, numbers, strict=True)
            },
        }
    return {**files, path.with_suffix(".yaml"): yaml.safe_dump({"tests": tests}, sort_keys=False, width=1000)}


def _columns(numbers: Sequence[NumberHistory]) -> list[str]:
    """Return distinct names of columns."""
    names: list[str] = []
    for number in numbers:
        name = _word(number.number)
        names.append(name if name not in names else f"{name}-{len(names)}")
    return names


def _table(numbers: Sequence[NumberHistory], columns: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["time", "commit", *columns])
    before: datetime | None = None
    for points in zip(*(number.points for number in numbers), strict=True):
        at = points[0].at.replace(microsecond=0)
        before = at if before is None else max(at, before + timedelta(seconds=1))
        writer.writerow([before.isoformat(), points[0].commit, *(repr(point.value) for point in points)])
    return text.getvalue()


def _word(text: str) -> str:
    """Return a name without characters that a file of settings or a command line would read otherwise."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-") or "number"
