"""Result table that `arvbench run` prints at its end."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from arvbench.reports.cases import case_cell, case_names, group_by, measured, prepared
from arvbench.reports.numbers import plain, shorten
from arvbench.reports.table import Cell, Column, make_table
from arvbench.reports.tables.provenance import UNRECORDED, deviations
from arvbench.reports.tables.quality import QualityKey, metric_label, protocol_names, quality_columns, quality_keys
from arvbench.reports.tables.results import CACHE_PEAK, STATUS, THROUGHPUT, peak_memory_columns, reason
from arvbench.results.metrics import TERMINAL_METRICS
from arvbench.results.schema import Record

if TYPE_CHECKING:
    from rich.table import Table as RichTable
    from rich.text import Text

_STYLES = {"plain": "", "good": "green", "bad": "bold red", "warn": "yellow"}
_REASON_LENGTH = 300
_NAME_WIDTH = 40
_MOST_QUALITY = 4
"""Largest number of quality columns that leaves room for case names."""
_ID_DIGITS = 6
"""Length of a protocol id in a heading; the whole id stands below the table."""
_INTERVAL = re.compile(r"\[[^]]+\]")
"""Interval at the start of a quality cell's detail."""


def terminal_table(records: Sequence[Record]) -> RichTable:
    """Make a Rich table of the headline numbers, with common words in its title, and reasons and protocols below.

    Names are plain text: Rich markup and control characters in them do nothing.
    """
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    names = case_names(records)
    short, shared = _without_shared_words(names)
    table = make_table("Results", _columns(records, short), records)
    rich = RichTable(
        title=Text(f"Results: {shared}" if shared else "Results"),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    for column in table.columns:
        words = " ".join(part for part in (column.label, column.unit, column.note) if part).split()
        # On a narrow terminal only the case names wrap.
        name = column is table.columns[0]
        rich.add_column(
            Text("\n".join(words)),
            justify="right" if column.numeric else "left",
            no_wrap=not name,
            max_width=_NAME_WIDTH if name else None,
            overflow="fold",
        )
    for row in table.rows:
        rich.add_row(
            *(_cell_text(cell, numeric=column.numeric) for cell, column in zip(row, table.columns, strict=True))
        )
    if remarks := [*_reasons(records, names), *_recipe_changes(records, names), *_warnings(records, names),
                   *_protocols(records)]:  # fmt: skip
        rich.caption = Text("\n".join(remarks))
    return rich


def _columns(records: Sequence[Record], names: dict[str, str]) -> list[Column[Record]]:
    """Columns of the report under short headings; a protocol id is part of one only where a metric has several."""
    keys, notes = _shown_keys(records), _protocol_notes(records)
    quality = quality_columns(records, TERMINAL_METRICS)[:_MOST_QUALITY]
    return [
        Column("Case", cell=lambda record: case_cell(record, names[record.record_id])),
        STATUS,
        replace(THROUGHPUT, label="images/s", unit=""),
        *(replace(column, label=column.note, unit="peak MiB", note="") for column in peak_memory_columns()),
        replace(CACHE_PEAK, label="Cache", unit="peak MiB"),
        *(replace(column, note=notes[key]) for column, key in zip(quality, keys, strict=True)),
    ]


def _protocol_notes(records: Sequence[Record]) -> dict[QualityKey, str]:
    """Notes that distinguish the columns of a metric: "" for a single one, else protocol names, with ids if needed."""
    notes: dict[QualityKey, str] = {}
    for keys in group_by(_shown_keys(records), lambda key: key[0]).values():
        names = [protocol_names(records)[protocol_id].rpartition(" ")[0] for _, protocol_id in keys]
        ids = [plain(protocol_id)[:_ID_DIGITS] for _, protocol_id in keys]
        alone = all(names) and len(set(names)) == len(names)
        distinct = names if alone else [f"{name} {short}" for name, short in zip(names, ids, strict=True)]
        notes |= {key: note if len(keys) > 1 else "" for key, note in zip(keys, distinct, strict=True)}
    return notes


def _without_shared_words(names: dict[str, str]) -> tuple[dict[str, str], str]:
    """Return names without their common words, and those words; a single name stays whole."""
    words = {record_id: name.split() for record_id, name in names.items()}
    first = next(iter(words.values()), [])
    shared = [word for word in first if all(word in other for other in words.values())]
    if len(set(names.values())) < 2:
        return names, ""
    return {
        record_id: " ".join(word for word in own if word not in shared) or names[record_id]
        for record_id, own in words.items()
    }, ", ".join(shared)


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
        for record, outcome in measured(records)
        for finding in outcome.findings
        if finding.severity == "warning"
    ]


def _protocols(records: Sequence[Record]) -> list[str]:
    protocols, shown = protocol_names(records), _shown_keys(records)
    lines = [f"{metric_label(metric)}: protocol {protocols[protocol_id]}" for metric, protocol_id in shown]
    more = len(quality_keys(records)) - len(shown)
    return [*lines, f"{more} more quality column{'s' if more > 1 else ''} in the report"] if more else lines


def _shown_keys(records: Sequence[Record]) -> list[QualityKey]:
    return quality_keys(records, TERMINAL_METRICS)[:_MOST_QUALITY]


def _cell_text(cell: Cell, *, numeric: bool) -> Text:
    """Write a cell with its flags below it; beside numbers there is room for the first word of a flag, and for an
    interval on two lines.
    """
    from rich.text import Text

    text = Text(cell.text, style=_STYLES[cell.tone])
    if interval := _INTERVAL.match(cell.detail):
        text.append("\n" + interval[0].replace(", ", ",\n"), style="dim")
    for flag in cell.flags:
        text.append(f"\n{flag.split()[0] if numeric else flag}", style="yellow")
    return text
