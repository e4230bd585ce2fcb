"""github-action-benchmark: the JSON of its tool `customSmallerIsBetter`, of the newest commit.

Source   benchmark-action/github-action-benchmark, README: an array of objects with name, unit and value, and optionally
         range and extra; the tools customSmallerIsBetter and customBiggerIsBetter read a file each
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import stdev
from typing import Any

from arvbench.reports.history_exports.newest import Number, newest_numbers
from arvbench.results.history import History


def github_action_benchmark(history: History, path: Path) -> Mapping[Path, str]:
    """Return the file for customSmallerIsBetter and, where there are such numbers, one for customBiggerIsBetter."""
    numbers = list(newest_numbers(history))
    smaller = [_entry(number) for number in numbers if number.series.lower_is_better]
    bigger = [_entry(number) for number in numbers if not number.series.lower_is_better]
    files = {path: _text(smaller)}
    return files | ({path.with_name(f"{path.stem}.bigger{path.suffix}"): _text(bigger)} if bigger else {})


def _entry(number: Number) -> dict[str, Any]:
    values = number.point.values
    spread = {"range": f"± {stdev(values):.6g}"} if len(values) > 1 else {}
    return {
        "name": f"{number.benchmark} / {number.measure}",
        "unit": number.series.unit or "1",
        "value": number.point.value,
        **spread,
        "extra": f"commit {number.point.commit}\nlaunches: {len(values)}\n{number.series.basis}",
    }


def _text(entries: list[dict[str, Any]]) -> str:
    return json.dumps(entries, indent=1, allow_nan=False) + "\n"
