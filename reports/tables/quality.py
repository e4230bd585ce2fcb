"""Quality numbers. A column belongs to one protocol id: numbers with different ids never share one."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from arvbench.reports.cases import case_cell, case_names, measured
from arvbench.reports.numbers import count_cell, mapping_text, plain, significant, text_cell
from arvbench.reports.table import NOTHING, Cell, Column, Table, make_table
from arvbench.results.metrics import METRICS, label_of
from arvbench.results.schema import Finding, Measured, Quality, Record

QualityKey = tuple[str, str]
"""(metric, protocol id)."""

_DIGITS = 4
"""Significant digits of a quality number."""
_PROTOCOL_NAME = re.compile(r"([a-z0-9][a-z0-9.-]*): ")
"""Beginning of the words of a protocol in records without `protocol_name`; still older words begin otherwise."""


def metric_label(metric: str) -> str:
    return plain(label_of(metric).text)


def value_text(quality: Quality) -> str:
    return significant(quality.value, _DIGITS)


def interval_text(quality: Quality) -> str:
    """The 95 % interval, in digits enough to tell its ends apart; "" where there is none."""
    if quality.interval is None:
        return ""
    for digits in range(_DIGITS, _DIGITS + 3):
        low, high = (significant(end, digits) for end in quality.interval)
        if low != high:
            break
    return f"[{low}, {high}]"


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
    order = {metric: place for place, metric in enumerate(METRICS)}
    return sorted(keys, key=lambda key: order.get(key[0], len(order)))


def quality_columns(records: Sequence[Record], only: Collection[str] = ()) -> list[Column]:
    """One column for each key of `quality_keys`, its protocol below the metric."""
    names = protocol_names(records)
    return [
        Column(label=metric_label(metric), numeric=True, note=names[protocol_id])
        for metric, protocol_id in quality_keys(records, only)
    ]


def protocol_names(records: Sequence[Record]) -> dict[str, str]:
    """Protocol id -> name and id of the protocol; the id alone where a record does not say the name."""
    names: dict[str, str] = {}
    for _, outcome in measured(records):
        for quality in outcome.quality:
            parsed = _PROTOCOL_NAME.match(quality.protocol)
            name = quality.protocol_name or (parsed[1] if parsed else "")
            names[quality.protocol_id] = plain(f"{name} {quality.protocol_id}".strip())
    return names


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
    details = [interval_text(quality)] if quality.interval else []
    if quality.spread is not None:
        details.append(f"± {significant(quality.spread)}")
    if with_count:
        details.append(f"n = {quality.n_samples:,}")
    return Cell(text=value_text(quality), detail=", ".join(details), sort=quality.value)


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
            text_cell(label_of(metric).better),
            text_cell(numbers[0].protocol),
            text_cell(_parameters(numbers[0])),
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
        Column(label="Parameters", code=True),
        Column(label="Samples", unit="images", numeric=True),
        Column(label="Note", prose=True),
    ]
    return make_table("What the protocol ids stand for", columns, rows)


def _parameters(quality: Quality) -> str:
    parameters = quality.detail.get("parameters")
    return mapping_text(parameters) if isinstance(parameters, Mapping) else ""


def findings_table(records: Sequence[Record]) -> Table:
    """What a reader of the numbers must know about the images behind them; warnings first within a case."""
    names = case_names(records)
    rows = [
        [case_cell(record, names), _severity_cell(finding), text_cell(finding.text)]
        for record, outcome in measured(records)
        for finding in sorted(outcome.findings, key=lambda finding: finding.severity != "warning")
    ]
    columns = [Column(label="Case"), Column(label="Severity"), Column(label="What was found", prose=True)]
    return make_table("What to know about the samples", columns, rows)


def _severity_cell(finding: Finding) -> Cell:
    return Cell(
        text=finding.severity,
        detail=plain(finding.code),
        sort=finding.severity,
        tone="warn" if finding.severity == "warning" else "plain",
    )
