"""Drift of lossy cases from exact ones."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from arvbench.reports.cases import measured
from arvbench.reports.names import case_column
from arvbench.reports.numbers import count_cell, mib_cell, number_cell, significant, text_cell
from arvbench.reports.table import NOTHING, Cell, Column, Table, make_table
from arvbench.results.drift import Average, Drift
from arvbench.results.schema import Measured, Record


class _CaseDrift(NamedTuple):
    """A row of the table."""

    record: Record
    outcome: Measured
    drift: Drift


def drift_table(records: Sequence[Record]) -> Table:
    """Tokens, logits or latents, and images of lossy cases beside those of exact ones, with 95 % intervals over images.

    Latents have no tokens that could be equal: what stands for them is the root mean square of their difference.
    """
    columns: list[Column[_CaseDrift]] = [
        case_column(records),
        Column("Lossy", cell=lambda row: text_cell(_lossy(row.outcome))),
        Column("Compared with", cell=lambda row: text_cell(row.drift.against)),
        Column("Live peak", "MiB", numeric=True, cell=lambda row: mib_cell(row.outcome.memory.cache_live_bytes)),
        Column("Images", numeric=True, cell=lambda row: count_cell(row.drift.images)),
        Column("Equal tokens, same path", "%", numeric=True, cell=lambda row: _cell(row.drift.forced_agreement, 100)),
        Column("Equal tokens, own path", "%", numeric=True, cell=lambda row: _cell(row.drift.free_agreement, 100)),
        Column("First other step, median", numeric=True, cell=lambda row: number_cell(_first(row.drift))),
        Column("KL of logits", "nats", numeric=True, cell=lambda row: _cell(row.drift.kl)),
        Column("Latents apart, same path", "%", numeric=True, cell=lambda row: _cell(row.drift.forced_distance, 100)),
        Column("Latents apart, own path", "%", numeric=True, cell=lambda row: _cell(row.drift.free_distance, 100)),
        Column("PSNR", "dB", numeric=True, cell=lambda row: _cell(row.drift.psnr_db)),
        Column("SSIM", numeric=True, cell=lambda row: _cell(row.drift.ssim)),
        Column("LPIPS", numeric=True, cell=lambda row: _cell(row.drift.lpips)),
        Column("Identical images", numeric=True, cell=lambda row: count_cell(row.drift.identical_images)),
        Column("Sampling", cell=lambda row: _sampling_cell(row.drift)),
    ]
    rows = [
        _CaseDrift(record, outcome, outcome.drift) for record, outcome in measured(records) if outcome.drift is not None
    ]
    return make_table(
        "Drift of lossy cases from exact ones, on the same noise: temperature and filters move PSNR",
        columns,
        rows,
    )


def _cell(average: Average | None, scale: float = 1) -> Cell:
    if average is None:
        return NOTHING
    low, high = (significant(end * scale) for end in average.interval)
    mean = average.mean * scale
    return Cell(text=significant(mean), detail=f"[{low}, {high}]", sort=mean)


def _lossy(outcome: Measured) -> str:
    """Lossy parts of a case; in records from before that was written, it is the cache."""
    lossy = outcome.setup.lossy
    return f"cache {outcome.setup.cache_policy}" if lossy is None else ", ".join(lossy)


def _first(drift: Drift) -> float | None:
    """Median over the images that differ; None when none does."""
    steps = [step for step in drift.first_diverging if step is not None]
    return float(statistics.median(steps)) if steps else None


def _sampling_cell(drift: Drift) -> Cell:
    """Filters and temperature; nothing for latents, to which they do not apply."""
    if drift.forced_agreement is None:
        return NOTHING
    top_k = "all" if drift.top_k is None else drift.top_k
    top_p = "1" if drift.top_p is None else significant(drift.top_p)
    temperatures = drift.temperatures or (drift.temperature,)
    temperature = "/".join(f"{value:g}" for value in dict.fromkeys(temperatures))
    return text_cell(f"temperature {temperature}, top-k {top_k}, top-p {top_p}")
