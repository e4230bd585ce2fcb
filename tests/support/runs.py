"""Runs of several launches for tests: records whose times and controls are given."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import records as make

from arvbench.results.machine import Control, ControlTimes
from arvbench.results.schema import Record

SOURCES = {"source_sha256": "5f" * 32, "method_sha256": "aa" * 32}
NOISE = (1.0, 1.004, 0.997, 1.002, 0.995, 1.006, 0.999, 1.003, 0.998, 1.001, 0.996, 1.005)
"""Factors of launches, within 1 %."""


def control(factor: float = 1.0) -> Control:
    times = ControlTimes(
        gemm_ns=tuple(int(1e6 * factor * noise) for noise in NOISE[:6]),
        copy_ns=tuple(int(5e5 * factor * noise) for noise in NOISE[:6]),
        host_ns=tuple(int(2e5 * factor * noise) for noise in NOISE[:6]),
    )
    return Control(work="256 float32 cpu", before=times, after=times)


def launch(number: int, *, speed: float, controlled: float | None = 1.0, **options: Any) -> Record:
    """Make launch `number` (from 1) of a case; all its times are those of `speed` times the launch's noise."""
    environment = make.environment(**(SOURCES | options.pop("environment", {})))
    record = make.record(number=0, speed=speed * NOISE[(number - 1) % len(NOISE)], environment=environment, **options)
    outcome = record.outcome.model_copy(update={"control": None if controlled is None else control(controlled)})
    name = hashlib.sha256(f"{number} {speed} {environment} {options}".encode()).hexdigest()[:16]
    return record.model_copy(update={"outcome": outcome, "launch": number, "record_id": name})


def run(folder: Path, *cases: Sequence[Record]) -> Path:
    make.write_records(folder / "records.jsonl", [record for case in cases for record in case])
    return folder


def launches(count: int = 8, *, speed: float = 1.0, **options: Any) -> list[Record]:
    return [launch(number, speed=speed, **options) for number in range(1, count + 1)]
