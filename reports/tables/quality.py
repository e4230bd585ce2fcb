"""Quality numbers. A column belongs to one protocol id: numbers with different ids never share one."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from arvbench.reports.cases import group_by, measured
from arvbench.reports.names import case_cells, case_column
from arvbench.reports.numbers import count_cell, mapping_text, plain, significant, text_cell
from arvbench.reports.remembered import remembered
from arvbench.reports.table import NOTHING, Cell, Column, Table, make_table
from arvbench.results.metrics import METRICS, label_of
from arvbench.results.schema import Finding, Measured, Quality, Record

QualityKey = tuple[str, str]
"""(metric, protocol id)."""

_PLACES = {metric: place for place, metric in enumerate(METRICS)}
_DIGITS = 4
"""Significant digits of a quality number."""
_PROTOCOL_NAME = re.compile(r"([a-z0-9][a-z0-9.-]*): ")
"""Protocol name at the start of `protocol`, for records without `protocol_name`; the oldest records lack it."""


def metric_label(metric: str) -> str:
    return plain(label_of(metric).text)


def value_text(quality: Quality, digits: int = _DIGITS) -> str:
    return significant(quality.value, digits)


def interval_text(quality: Quality, digits: int = _DIGITS) -> str:
    """Format the 95 % interval with `digits` digits, or more to distinguish its ends; "" for None."""
    if quality.interval is None:
        return ""
    for more in range(3):
        low, high = (significant(end, digits + more) for end in quality.interval)
        if low != high:
            break
    return f"[{low}, {high}]"


def quality_key(quality: Quality) -> QualityKey:
    return (quality.metric, quality.protocol_id)


def quality_keys(records: Sequence[Record], only: Collection[str] = ()) -> list[QualityKey]:
    """List every (metric, protocol id) in the records: known metrics first, then in the order of first use.

    `only` keeps these metrics; empty keeps all.
    """
    keys = dict.fromkeys(
        [
            (quality.metric, quality.protocol_id)
            for _, outcome in measured(records)
            for quality in outcome.quality
            if not only or quality.metric in only
        ]
    )
    return sorted(keys, key=lambda key: _PLACES.get(key[0], len(_PLACES)))


def quality_columns(
    records: Sequence[Record], only: Collection[str] = (), *, with_count: bool = False
) -> list[Column[Record]]:
    """One column for each key of `quality_keys`, with its protocol as the note; `with_count` adds the sample count."""
    names, keys = protocol_names(records), quality_keys(records, only)
    numbers = {record.record_id: _numbers_by_key(record) for record in records}

    def column(key: QualityKey) -> Column[Record]:
        return Column(
            metric_label(key[0]),
            numeric=True,
            note=names[key[1]],
            cell=lambda record: _value_cell(numbers[record.record_id].get(key), with_count=with_count),
        )

    return [column(key) for key in keys]


def _numbers_by_key(record: Record) -> dict[QualityKey, Quality]:
    quality = record.outcome.quality if isinstance(record.outcome, Measured) else ()
    return {quality_key(number): number for number in quality}


def quality_number(record: Record, key: QualityKey) -> Quality | None:
    """Return a record's number for a key; the later one of two."""
    metric, protocol_id = key
    for number in reversed(record.outcome.quality) if isinstance(record.outcome, Measured) else ():
        if number.metric == metric and number.protocol_id == protocol_id:
            return number
    return None


@remembered
def protocol_names(records: Sequence[Record]) -> dict[str, str]:
    """Map protocol ids to "name id"; to the id alone when a record does not name the protocol."""
    return {
        quality.protocol_id: _protocol_name(quality.protocol_id, quality.protocol_name, quality.protocol)
        for _, outcome in measured(records)
        for quality in outcome.quality
    }


@lru_cache(maxsize=2**12)
def _protocol_name(protocol_id: str, name: str | None, words: str) -> str:
    parsed = _PROTOCOL_NAME.match(words)
    return plain(f"{name or (parsed[1] if parsed else '')} {protocol_id}".strip())


def _value_cell(quality: Quality | None, *, with_count: bool) -> Cell:
    if quality is None:
        return NOTHING
    details = [interval_text(quality)] if quality.interval else []
    if quality.spread is not None:
        details.append(f"± {significant(quality.spread)}")
    if with_count:
        details.append(f"n = {quality.n_samples:,}")
    return Cell(value_text(quality), ", ".join(details), quality.value if math.isfinite(quality.value) else None)


def quality_table(records: Sequence[Record]) -> Table:
    """One row for each case with quality numbers, one column for each metric and protocol id."""
    cells = case_cells(records)
    columns: list[Column[Record]] = [
        Column("Case", cell=lambda record: cells[record.record_id]),
        *quality_columns(records, with_count=True),
    ]
    return make_table("Quality, by protocol id", columns, [r for r, outcome in measured(records) if outcome.quality])


_PROTOCOL_COLUMNS: tuple[Column[Sequence[Quality]], ...] = (
    Column("Protocol id", code=True, cell=lambda numbers: text_cell(numbers[0].protocol_id)),
    Column("Metric", cell=lambda numbers: text_cell(metric_label(numbers[0].metric))),
    Column("Better", cell=lambda numbers: text_cell(label_of(numbers[0].metric).better)),
    Column("Protocol", prose=True, cell=lambda numbers: text_cell(numbers[0].protocol)),
    Column("Parameters", code=True, cell=lambda numbers: text_cell(_parameters(numbers[0]))),
    Column("Samples", "images", numeric=True, cell=lambda numbers: count_cell(numbers[0].n_samples)),
    Column(
        "Note", prose=True, cell=lambda numbers: text_cell("; ".join(dict.fromkeys(q.note for q in numbers if q.note)))
    ),
)


def protocols_table(records: Sequence[Record]) -> Table:
    """Meaning of each protocol id; one row per metric and protocol id."""
    numbers = [quality for _, outcome in measured(records) for quality in outcome.quality]
    by_key = group_by(numbers, quality_key)
    return make_table(
        "What the protocol ids stand for", _PROTOCOL_COLUMNS, [by_key[key] for key in quality_keys(records)]
    )


def _parameters(quality: Quality) -> str:
    parameters = quality.detail.get("parameters")
    return mapping_text(parameters) if isinstance(parameters, Mapping) else ""


class _CaseFinding(NamedTuple):
    record: Record
    finding: Finding


def findings_table(records: Sequence[Record]) -> Table:
    """Findings about the images behind the numbers; warnings first within a case."""
    columns: list[Column[_CaseFinding]] = [
        case_column(records),
        Column("Severity", cell=lambda row: _severity_cell(row.finding)),
        Column("What was found", prose=True, cell=lambda row: text_cell(row.finding.text)),
    ]
    rows = [
        _CaseFinding(record, finding)
        for record, outcome in measured(records)
        for finding in sorted(outcome.findings, key=lambda finding: finding.severity != "warning")
    ]
    return make_table("What to know about the samples", columns, rows)


def _severity_cell(finding: Finding) -> Cell:
    return Cell(
        text=finding.severity,
        detail=plain(finding.code),
        sort=finding.severity,
        tone="warn" if finding.severity == "warning" else "plain",
    )
