"""Records over many commits, made up with known changes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import records as make

from arvbench.results.schema import Record


def commit(place: int) -> str:
    """Return the id of a made-up commit."""
    return hashlib.sha1(str(place).encode()).hexdigest()


def records_of(
    speeds: Sequence[float],
    *,
    launches: int = 1,
    environment: Callable[[int], Mapping[str, Any]] = lambda _place: {},
    first: int = 0,
    **options: Any,
) -> list[Record]:
    """One case at as many commits as there are speeds; launches differ by 1 %."""
    rng, made = np.random.default_rng(len(speeds)), list[Record]()
    for place, speed in enumerate(speeds):
        changes = {"git_commit": commit(place), "source_sha256": commit(place), "method_sha256": "ab" * 32}
        for launch in range(1, launches + 1):
            number = first + len(made)
            made.append(
                make.record(
                    number=number,
                    launch=launch,
                    batch=options.get("batch", 1),
                    speed=speed * (1 + 0.01 * float(rng.standard_normal())),
                    environment=make.environment(**(changes | environment(place))),
                    capacity=None,
                    **{key: value for key, value in options.items() if key != "batch"},
                )
            )
    return made


def write(folder: Path, records: Sequence[Record]) -> Path:
    """Write records into a run folder."""
    folder.mkdir(parents=True, exist_ok=True)
    make.write_records(folder / "records.jsonl", list(records))
    return folder
