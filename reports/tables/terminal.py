"""Tables that `arvbench run` prints at its end: speed of all cases, then quality of those that have some.

No row wraps: what all cases share stands in the title, columns name what differs, letters refer to the remarks below,
and columns for which a narrow terminal has no room are left to the report.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count, product
from typing import TYPE_CHECKING

from arvbench.reports.cases import case_names, group_by, prepared, warnings_of
from arvbench.reports.numbers import interval_kind, plain, shorten
from arvbench.reports.numbers import interval_text as number_interval
from arvbench.reports.row_names import RowNames, row_names
from arvbench.reports.steadiness import unsteady_records, unsteady_text
from arvbench.reports.table import MISSING, NOTHING, Cell, Column, Table, make_table
from arvbench.reports.tables.energy import energy_lines
from arvbench.reports.tables.equal_memory import equal_memory_part
from arvbench.reports.tables.provenance import UNRECORDED, deviations
from arvbench.reports.tables.quality import (
    QualityKey,
    interval_text,
    metric_label,
    protocol_names,
    quality_keys,
    quality_number,
    value_text,
)
from arvbench.reports.tables.results import CACHE_PEAK, STATUS, THROUGHPUT, peak_memory_columns, reason
from arvbench.reports.tables.rich_table import titled_table
from arvbench.results.launches import merge_launches, several_launches
from arvbench.results.metrics import TERMINAL_METRICS
from arvbench.results.schema import Measured, Record
from arvbench.results.search import with_marks
from arvbench.results.statistics import Estimate, find_timing, images_per_second

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table as RichTable

_REASON_LENGTH = 300
_ID_DIGITS = 6
"""Length of a protocol id in a heading; the whole id stands below the table."""
_QUALITY_DIGITS = 3
_SHORT_SOURCES = {"CUDA allocator": "CUDA MiB", "process RSS": "RSS MiB"}


def terminal_table(records: Sequence[Record], *, width: int = 80) -> RenderableType:
    """Make Rich tables of the headline numbers for a terminal of `width` columns, with remarks below.

    Names are plain text: Rich markup and control characters in them do nothing.
    """
    from rich.console import Group
    from rich.text import Text

    records = with_marks(merge_launches(records))
    names, letters = case_names(records), _Letters()
    speed_names, unsteady = row_names(records, width // 2), unsteady_records(records)
    seen = {record.record_id: f"unsteady: {unsteady_text(unsteady)}" for record in unsteady}
    status, speed, *memory = _speed_columns()
    intervals = [_INTERVAL] if several_launches(records) else []
    columns = [*speed_names.columns, status, speed, *intervals, *_note_column(speed_names, letters, seen), *memory]
    parts = _part("Results", speed_names, make_table("Results", columns, records), width)
    remarks = [
        *_interval_kinds(records),
        *_reasons(records, names),
        *energy_lines(records),
        *_recipe_changes(records, names),
        *_warnings(records, names),
    ]
    if samples := [record for record in records if quality_keys([record], TERMINAL_METRICS)]:
        own_names = row_names(samples, width // 3)
        columns = [*own_names.columns, *_note_column(own_names, letters, {}), *_quality_columns(samples)]
        parts += [Text(), *_part("Quality", own_names, make_table("Quality", columns, samples), width)]
        remarks += _protocols(records)
    if caches := equal_memory_part(records, width):
        parts += [Text(), *caches]
    return Group(*parts, Text(), _legend(letters), *map(Text, remarks))


class _Letters:
    """Letters that stand in a table for longer texts; a text has one letter."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        """Letter by text."""
        self._free = ("".join(word) for length in count(1) for word in product(string.ascii_lowercase, repeat=length))

    def of(self, text: str) -> str:
        if text not in self.texts:
            self.texts[text] = next(self._free)
        return self.texts[text]


def _note_column(names: RowNames, letters: _Letters, remarks: Mapping[str, str]) -> list[Column[Record]]:
    """Return a column of letters for the notes and the remarks (by record id), or none when there are none."""
    texts = {key: [text for text in (note, remarks.get(key, "")) if text] for key, note in names.notes.items()}
    cells = {key: Cell(text=",".join(map(letters.of, own)), tone="warn") for key, own in texts.items()}
    column: Column[Record] = Column("Note", cell=lambda record: cells[record.record_id])
    return [column] if any(texts.values()) else []


def _part(title: str, names: RowNames, table: Table, width: int) -> list[RenderableType]:
    return titled_table(f"{title}: {names.title}" if names.title else title, table, width, naming=len(names.columns))


def _speed_columns() -> list[Column[Record]]:
    return [
        STATUS,
        replace(THROUGHPUT, label="images/s", unit=""),
        *(replace(column, label=_SHORT_SOURCES[column.note], unit="", note="") for column in peak_memory_columns()),
        replace(CACHE_PEAK, label="Cache MiB", unit=""),
    ]


def _interval_of(record: Record) -> Estimate | None:
    """Return the throughput with its interval; None for a case without one."""
    timing = find_timing(record.outcome, "images") if isinstance(record.outcome, Measured) else None
    return None if timing is None else images_per_second(timing)


def _interval_cell(record: Record) -> Cell:
    """Ends of the interval over launches; the remarks below the table say what the others have."""
    speed = _interval_of(record)
    shown = speed is not None and speed.launches > 1 and speed.low is not None
    return Cell(text=number_interval(speed)) if speed is not None and shown else NOTHING


_INTERVAL: Column[Record] = Column("interval", cell=_interval_cell)


def _interval_kinds(records: Sequence[Record]) -> list[str]:
    """Say what the intervals hold, each kind once; nothing when every case has one launch."""
    if not several_launches(records):
        return []
    speeds = [speed for record in records if (speed := _interval_of(record)) is not None]
    return [f"interval: {kind}" for kind in dict.fromkeys(map(interval_kind, speeds))]


def _quality_columns(records: Sequence[Record]) -> list[Column[Record]]:
    """Columns of values with their intervals; a protocol is named where a metric has several."""
    notes = _protocol_notes(records)
    return [_quality_column(key, note, records) for key, note in notes.items()]


def _quality_column(key: QualityKey, note: str, records: Sequence[Record]) -> Column[Record]:
    texts = {}
    for record in records:
        number = quality_number(record, key)
        texts[record.record_id] = (
            (MISSING, "")
            if number is None
            else (value_text(number, _QUALITY_DIGITS), interval_text(number, _QUALITY_DIGITS))
        )
    # Values stand below each other, and so do intervals.
    value_width = max(len(value) for value, _ in texts.values())

    def cell(record: Record) -> Cell:
        value, interval = texts[record.record_id]
        return Cell(text=f"{value:>{value_width}} {interval}".rstrip())

    return Column(metric_label(key[0]), note=note, cell=cell)


def _protocol_notes(records: Sequence[Record]) -> dict[QualityKey, str]:
    """Notes that distinguish the columns of a metric: "" for a single one, else protocol names, with ids if needed."""
    notes: dict[QualityKey, str] = {}
    for keys in group_by(quality_keys(records, TERMINAL_METRICS), lambda key: key[0]).values():
        names = [protocol_names(records)[protocol_id].rpartition(" ")[0] for _, protocol_id in keys]
        ids = [plain(protocol_id)[:_ID_DIGITS] for _, protocol_id in keys]
        alone = all(names) and len(set(names)) == len(names)
        distinct = names if alone else [f"{name} {short}" for name, short in zip(names, ids, strict=True)]
        notes |= {key: note if len(keys) > 1 else "" for key, note in zip(keys, distinct, strict=True)}
    return notes


def _legend(letters: _Letters) -> RichTable:
    """Draw the letters beside their texts."""
    from rich.table import Table as RichTable
    from rich.text import Text

    legend = RichTable.grid(padding=(0, 1))
    for text, letter in letters.texts.items():
        legend.add_row(Text(letter, style="yellow"), Text(text))
    return legend


def _reasons(records: Sequence[Record], names: dict[str, str]) -> list[str]:
    return [
        f"{names[record.record_id]}: {record.status.value}: {shorten(reason(record), _REASON_LENGTH)}"
        for record in records
        if reason(record)
    ]


def _recipe_changes(records: Sequence[Record], names: dict[str, str]) -> list[str]:
    """Deviations of cases from their recipes."""
    remarks = []
    for record, setup in prepared(records):
        if setup.recipe is None or not setup.recipe_deviations:
            continue
        changes = ", ".join(
            f"{name}={used}" + ("" if official is UNRECORDED else f" (official: {official})")
            for name, used, official in deviations(setup)
        )
        remarks.append(f"{names[record.record_id]}: not the recipe: {shorten(changes, _REASON_LENGTH)}")
    return remarks


def _warnings(records: Sequence[Record], names: dict[str, str]) -> list[str]:
    """Warnings about the samples behind the quality numbers."""
    return [
        f"{names[record.record_id]}: warning: {shorten(finding.text, _REASON_LENGTH)}"
        for record, finding in warnings_of(records)
    ]


def _protocols(records: Sequence[Record]) -> list[str]:
    """Protocols of the quality columns, and the number of metrics that only the report has."""
    protocols, shown = protocol_names(records), quality_keys(records, TERMINAL_METRICS)
    lines = [f"{metric_label(metric)}: protocol {protocols[protocol_id]}" for metric, protocol_id in shown]
    more = len(quality_keys(records)) - len(shown)
    return [*lines, f"{more} more quality number{'s' if more > 1 else ''} in the report"] if more else lines
