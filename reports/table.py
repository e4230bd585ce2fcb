"""A table as data: built once from records, written as HTML, Markdown and text in a terminal.

Everything in a cell may come from a record and is untrusted: each writer escapes it in its own way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

MISSING = "\N{EN DASH}"

Tone = Literal["plain", "good", "bad", "warn"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One value: what is read, and what it is sorted by."""

    text: str = MISSING
    detail: str = ""
    """Secondary text, such as an interval."""
    sort: float | str | None = None
    """Sort key; None sorts behind everything."""
    flags: tuple[str, ...] = ()
    """Marks that must not be overlooked, such as "random weights"."""
    tone: Tone = "plain"


NOTHING = Cell()


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """What the cells below it mean."""

    label: str
    unit: str = ""
    numeric: bool = False
    note: str = ""
    """Second line of the header, such as a protocol id."""
    code: bool = False
    """Set in a fixed-width face: hashes, paths, settings."""
    prose: bool = False
    """Sentences, which need room on a narrow page."""

    @property
    def heading(self) -> str:
        """Label with unit, on one line."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of cells under columns; every row is as long as `columns`. The first column names the row."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.caption!r}: a row has {len(row)} cells for {len(self.columns)} columns")

    def __bool__(self) -> bool:
        return bool(self.rows)


def make_table(caption: str, columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> Table:
    """Build a table from any sequences; columns that are empty in every row are left out, the first is kept."""
    used = [i for i in range(len(columns)) if i == 0 or not rows or any(row[i] != NOTHING for row in rows)]
    return Table(
        caption=caption,
        columns=tuple(columns[i] for i in used),
        rows=tuple(tuple(row[i] for i in used) for row in rows),
    )
