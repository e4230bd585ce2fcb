"""Bencher Metric Format: benchmark -> measure -> value with its bounds, of the newest commit.

Source   bencher.dev/bmf.json and its reference page: names of benchmarks have 1,024 characters at most, those of
         measures 64
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from arvbench.reports.history_exports.newest import Number, newest_numbers
from arvbench.results.history import History
from arvbench.results.statistics import median_interval

_LONGEST_BENCHMARK, _LONGEST_MEASURE = 1024, 64
_DIGEST = 12


def bencher(history: History, path: Path) -> Mapping[Path, str]:
    """Return the file for `bencher run --adapter json --file`."""
    benchmarks: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    for number in newest_numbers(history):
        benchmark = _short(number.benchmark, _LONGEST_BENCHMARK)
        benchmarks[benchmark][_short(_measure(number), _LONGEST_MEASURE)] = _metric(number)
    return {path: json.dumps(benchmarks, indent=1, allow_nan=False) + "\n"}


def _measure(number: Number) -> str:
    """Return the name of the measure, with its unit."""
    return f"{number.measure} [{number.series.unit}]" if number.series.unit else number.measure


def _metric(number: Number) -> dict[str, float]:
    """Return the value, with the interval of the median where there are launches enough for one."""
    metric = {"value": number.point.value}
    if number.series.kind == "time":
        estimate = median_interval(number.point.values)
        if estimate.low is not None and estimate.high is not None:
            metric |= {"lower_value": estimate.low, "upper_value": estimate.high}
    return metric


def _short(name: str, most: int) -> str:
    """Cut a name that is too long; a digest of the whole keeps two of them apart."""
    if len(name) <= most:
        return name
    return f"{name[: most - _DIGEST - 1]}~{hashlib.sha256(name.encode()).hexdigest()[:_DIGEST]}"
