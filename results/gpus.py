"""Table of GPUs: peak rates that their makers state, without sparsity (`gpus.csv` beside this file).

Units    gb 10^9 bytes, gb_s 10^9 bytes per second, tflop_s 10^12 FLOPs per second
"""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

from pydantic import Field

from arvbench.errors import UserError, shown
from arvbench.results.machine import Frozen

GPUS_FILE = Path(__file__).with_name("gpus.csv")


class StatedGpu(Frozen):
    """A line of the table."""

    name: str = Field(min_length=1)
    memory_gb: float = Field(gt=0, allow_inf_nan=False)
    bandwidth_gb_s: float = Field(gt=0, allow_inf_nan=False)
    float32_tflop_s: float = Field(gt=0, allow_inf_nan=False)
    """Of the cores that compute matrix products in full fp32."""
    tf32_tflop_s: float = Field(gt=0, allow_inf_nan=False)
    bfloat16_tflop_s: float = Field(gt=0, allow_inf_nan=False)
    float16_tflop_s: float = Field(gt=0, allow_inf_nan=False)
    source: str = Field(min_length=1)
    """Title of the maker's document."""


@cache
def stated_gpus(file: Path = GPUS_FILE) -> dict[str, StatedGpu]:
    """Return the lines of the table by name. Raises ValueError for a line that is not whole, or a name twice."""
    with file.open(encoding="utf-8", newline="") as lines:
        rows = [StatedGpu.model_validate(row) for row in csv.DictReader(lines)]
    by_name = {row.name: row for row in rows}
    if len(by_name) < len(rows):
        raise ValueError(f"{file.name} has a name twice")
    return by_name


def gpu_named(name: str) -> StatedGpu:
    """Return a GPU by its name in any case. Raises UserError, which lists the known ones."""
    table = stated_gpus()
    found = {known.casefold(): known for known in table}.get(name.casefold())
    if found is None:
        raise UserError(f"no GPU {shown(name)} in the table; known: {', '.join(table)}")
    return table[found]
