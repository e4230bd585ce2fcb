"""pytest-benchmark: the JSON that `--benchmark-json` writes, of the times of the newest commit.

`pytest-benchmark compare FILE` reads it, and so does github-action-benchmark with `tool: pytest`. A round is a launch.

Units    seconds
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median, quantiles, stdev
from typing import Any

from arvbench.reports.history_exports.newest import Number, newest_numbers
from arvbench.results.history import History
from arvbench.results.statistics import NS_PER_S

_VERSION = "5.3.1"
"""Of pytest-benchmark whose form this is."""


def pytest_benchmark(history: History, path: Path) -> Mapping[Path, str]:
    """Return the file. Raises nothing for a history without times: its list of benchmarks is empty."""
    numbers = [number for number in newest_numbers(history) if number.series.unit == "ns"]
    at = min((number.point.at for number in numbers), default=None)
    moment = at.isoformat() if at else None
    content = {
        "machine_info": {
            "node": ", ".join(dict.fromkeys(number.series.hardware for number in numbers)),
            "machine": "",
            "python_version": "",
            "system": "",
            "cpu": {"brand_raw": ", ".join(dict.fromkeys(number.series.hardware for number in numbers))},
        },
        "commit_info": {
            "id": history.commits[-1],
            "time": moment,
            "author_time": moment,
            "dirty": False,
            "project": "arvbench",
            "branch": "(unknown)",
        },
        "benchmarks": [_benchmark(number) for number in numbers],
        "datetime": moment,
        "version": _VERSION,
    }
    return {path: json.dumps(content, indent=1, allow_nan=False) + "\n"}


def _benchmark(number: Number) -> dict[str, Any]:
    seconds = [value / NS_PER_S for value in number.point.values]
    return {
        "group": number.benchmark,
        "name": number.measure,
        "fullname": f"{number.benchmark}::{number.measure}",
        "params": None,
        "param": None,
        "extra_info": {"commit": number.point.commit, "basis": number.series.basis},
        "options": {
            "disable_gc": False,
            "timer": "perf_counter",
            "min_rounds": len(seconds),
            "max_time": 0.0,
            "min_time": 0.0,
            "warmup": True,
        },
        "stats": {**_stats(seconds), "data": seconds, "iterations": 1},
    }


def _stats(seconds: Sequence[float]) -> dict[str, Any]:
    mean, deviation = fmean(seconds), stdev(seconds) if len(seconds) > 1 else 0.0
    low, _, high = quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else (seconds[0],) * 3
    reach = 1.5 * (high - low)
    inside = [value for value in seconds if low - reach <= value <= high + reach]
    beyond = sum(abs(value - mean) > deviation for value in seconds)
    outliers = len(seconds) - len(inside)
    return {
        "min": min(seconds),
        "max": max(seconds),
        "mean": mean,
        "stddev": deviation,
        "rounds": len(seconds),
        "median": median(seconds),
        "iqr": high - low,
        "q1": low,
        "q3": high,
        "iqr_outliers": outliers,
        "stddev_outliers": beyond,
        "outliers": f"{beyond};{outliers}",
        "ld15iqr": min(inside),
        "hd15iqr": max(inside),
        "ops": 1 / mean,
        "total": sum(seconds),
    }
