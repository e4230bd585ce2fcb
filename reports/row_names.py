"""Names of the rows of a narrow table: a title of what all share, short columns of what differs, notes of the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from arvbench.reports.cases import case_names
from arvbench.reports.names import name_parts
from arvbench.reports.numbers import text_cell
from arvbench.reports.table import Column
from arvbench.results.launches import launches_of, several_launches
from arvbench.results.schema import Record

_GAP = 2
"""Spaces between columns."""
_NEVER = ("quality", "rest", "mark")
"""Parts that are words, not values."""
_TITLES = {
    "Batch": "batch {}",
    "Weights": "weights {}",
    "Cache": "cache {}",
    "Recipe": "recipe {}",
    "Launches": "{} launches",
}
"""Words in a title; other values stand there alone, settings as key=value."""
_NUMERIC = ("Batch", "Launches")


@dataclass(frozen=True, slots=True, kw_only=True)
class RowNames:
    """Names of the rows of one table."""

    title: str
    """Words that all rows share; "" for none."""
    columns: tuple[Column[Record], ...]
    """Columns that distinguish the rows; the first is the model, or the case when cases have names of their own."""
    notes: Mapping[str, str]
    """Words that have no column, by record id; "" for none."""


def row_names(records: Sequence[Record], width: int) -> RowNames:
    """Split the names of `records`, of which there is at least one; the columns take about `width` characters.

    A quality request that all cases with one share is not part of a name: the numbers show which cases have it.
    """
    names = case_names(records)
    parts = {record.record_id: name_parts(record, names[record.record_id]) for record in records}
    if several_launches(records):
        parts = {r.record_id: parts[r.record_id] | {"Launches": str(len(launches_of(r)))} for r in records}
    labels = list(dict.fromkeys(label for part in parts.values() for label in part))
    values = {label: [part.get(label, "") for part in parts.values()] for label in labels}
    if len({*values.get("quality", ())} - {""}) < 2:
        labels = [label for label in labels if label != "quality"]
    differing = [label for label in labels if len(set(values[label])) > 1]
    columns = _with_room(differing, values, width) or labels[:1]
    return RowNames(
        title=_words(labels, {label: values[label][0] for label in labels if label not in {*differing, *columns}}),
        columns=tuple(_column(label, parts) for label in columns),
        notes={
            record_id: _words([label for label in differing if label not in columns], part)
            for record_id, part in parts.items()
        },
    )


def _with_room(labels: Sequence[str], values: Mapping[str, Sequence[str]], width: int) -> list[str]:
    """Select the labels that become columns: model and case always, others while there is room.

    A setting becomes one when rows differ in its value, and not only in having it.
    """
    chosen, room = [], width
    for label in labels:
        given = {value for value in values[label] if value}
        taken = max(map(len, [label, *given])) + _GAP
        sweep = "=" not in label or len(given) > 1
        if label in ("Model", "Case") or (taken <= room and sweep and label not in _NEVER):
            chosen.append(label)
            room -= taken
    return chosen


def _words(labels: Sequence[str], part: Mapping[str, str]) -> str:
    return ", ".join(_in_words(label, part[label]) for label in labels if part.get(label))


def _in_words(label: str, value: str) -> str:
    if label == "Launches" and value == "1":
        return "1 launch"
    return f"{label}{value}" if label.endswith("=") else _TITLES.get(label, "{}").format(value)


def _column(label: str, parts: Mapping[str, Mapping[str, str]]) -> Column[Record]:
    return Column(
        label.rstrip("="),
        numeric=label in _NUMERIC,
        cell=lambda record: text_cell(parts[record.record_id].get(label, "")),
    )
