"""Quality numbers. A column belongs to one protocol id: numbers with different ids never share one."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from arvbench.reports.cases import case_cell, case_names, measured
from arvbench.reports.numbers import count_cell, plain, significant, text_cell
from arvbench.reports.table import NOTHING, Cell, Column, Table, make_table
from arvbench.results.schema import Measured, Quality, Record

# Metric as recorded -> (how it is written, which way is better).
_METRICS: dict[str, tuple[str, str]] = {
    "fid": ("FID", "lower"),
    "reconstruction-fid": ("rFID", "lower"),
    "label-accuracy": ("Label accuracy", "higher"),
    "isc": ("IS", "higher"),
    "kid": ("KID", "lower"),
    "precision": ("Precision", "higher"),
    "recall": ("Recall", "higher"),
}

QualityKey = tuple[str, str]
"""(metric, protocol id)."""


def metric_label(metric: str) -> str:
    return _METRICS.get(metric, (plain(metric), ""))[0]


def quality_key(quality: Quality) -> QualityKey:
    return (quality.metric, quality.protocol_id)


def quality_keys(records: Sequence[Record], only: Collection[str] = ()) -> list[QualityKey]:
    """Every (metric, protocol id) in the records: known metrics first, then in the order of first use.

    `only` keeps these metrics; empty keeps all. The same holds for the columns and cells below.
    """
    keys = dict.fromkeys(
        quality_key(quality)
        for _, outcome in measured(records)
        for quality in outcome.quality
        if not only or quality.metric in only
    )
    order = {metric: place for place, metric in enumerate(_METRICS)}
    return sorted(keys, key=lambda key: order.get(key[0], len(order)))


def quality_columns(records: Sequence[Record], only: Collection[str] = ()) -> list[Column]:
    """One column for each key of `quality_keys`, its protocol id below the metric."""
    return [
        Column(label=metric_label(metric), numeric=True, note=plain(protocol_id))
        for metric, protocol_id in quality_keys(records, only)
    ]


def quality_cells(record: Record, records: Sequence[Record], only: Collection[str] = ()) -> list[Cell]:
    """The record's cells under `quality_columns(records, only)`."""
    found = _numbers(record)
    return [_value_cell(found.get(key), with_count=False) for key in quality_keys(records, only)]


def _numbers(record: Record) -> dict[QualityKey, Quality]:
    outcome = record.outcome
    return {quality_key(q): q for q in outcome.quality} if isinstance(outcome, Measured) else {}


def _value_cell(quality: Quality | None, *, with_count: bool) -> Cell:
    if quality is None:
        return NOTHING
    details = [] if quality.spread is None else [f"± {significant(quality.spread)}"]
    if with_count:
        details.append(f"n = {quality.n_samples:,}")
    return Cell(text=significant(quality.value, 4), detail=", ".join(details), sort=quality.value)


def quality_table(records: Sequence[Record]) -> Table:
    """One row for each case with quality numbers, one column for each metric and protocol id."""
    names = case_names(records)
    keys = quality_keys(records)
    rows = [
        [case_cell(record, names), *(_value_cell(found.get(key), with_count=True) for key in keys)]
        for record in records
        if (found := _numbers(record))
    ]
    return make_table("Quality, by protocol id", [Column(label="Case"), *quality_columns(records)], rows)


def protocols_table(records: Sequence[Record]) -> Table:
    """What each protocol id stands for."""
    found: dict[QualityKey, list[Quality]] = {key: [] for key in quality_keys(records)}
    for _, outcome in measured(records):
        for quality in outcome.quality:
            found[quality_key(quality)].append(quality)
    rows = [
        [
            text_cell(protocol_id),
            text_cell(metric_label(metric)),
            text_cell(_METRICS.get(metric, ("", ""))[1]),
            text_cell(numbers[0].protocol),
            count_cell(numbers[0].n_samples),
            text_cell("; ".join(dict.fromkeys(q.note for q in numbers if q.note))),
        ]
        for (metric, protocol_id), numbers in found.items()
    ]
    columns = [
        Column(label="Protocol id", code=True),
        Column(label="Metric"),
        Column(label="Better"),
        Column(label="Protocol", prose=True),
        Column(label="Samples", unit="images", numeric=True),
        Column(label="Note", prose=True),
    ]
    return make_table("What the protocol ids stand for", columns, rows)
