"""A table as data: built once from records, written as HTML, Markdown and text in a terminal.

Text in a cell may come from a record and is untrusted: each writer escapes it in its own way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from operator import itemgetter
from typing import Any, Generic, Literal, NamedTuple, TypeVar

MISSING = "\N{EN DASH}"

Tone = Literal["plain", "good", "bad", "warn"]


class Cell(NamedTuple):
    """One value: the text to read and the key to sort by. A large page has a hundred thousand of them."""

    text: str = MISSING
    detail: str = ""
    """Secondary text, such as an interval."""
    sort: float | str | None = None
    """Sort key; None sorts behind everything."""
    flags: tuple[str, ...] = ()
    """Marks that must not be overlooked, such as "random weights"."""
    tone: Tone = "plain"
    strong: bool = False
    """The best of its column, or not shown to differ from it."""


NOTHING = Cell()

Row = TypeVar("Row")
Row_contra = TypeVar("Row_contra", contravariant=True)


@dataclass(frozen=True, slots=True)
class Column(Generic[Row_contra]):
    """A heading, and the function that makes a row's cell."""

    label: str
    unit: str = ""
    _: KW_ONLY
    cell: Callable[[Row_contra], Cell]
    numeric: bool = False
    note: str = ""
    """Second line of the header, such as a protocol id."""
    code: bool = False
    """Set in a fixed-width face: hashes, paths, settings."""
    prose: bool = False
    """Sentences, which need room on a narrow page."""
    once: bool = False
    """Moves to the caption where two rows or more all have one value."""

    @property
    def heading(self) -> str:
        """Label with unit, on one line."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of cells under columns; every row is as long as `columns`. The first column names the row."""

    caption: str
    columns: tuple[Column[Any], ...]
    rows: tuple[tuple[Cell, ...], ...]
    row_ids: tuple[str, ...] = ()
    """Record behind each row, which links lead to; empty for a table that none leads to."""
    row_targets: tuple[str, ...] = ()
    """Record to whose row the name of each row leads; empty for names that lead nowhere."""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.caption!r}: a row has {len(row)} cells for {len(self.columns)} columns")

    def __bool__(self) -> bool:
        return bool(self.rows)


def make_table(caption: str, columns: Sequence[Column[Row]], rows: Iterable[Row]) -> Table:
    """Build a table with a line of cells for each of `rows`.

    Empty columns are left out, except the first, and those that say the same `once` are told by the caption.
    """
    makers = [column.cell for column in columns]
    cells = [tuple([make(row) for make in makers]) for row in rows]
    used = [i for i in range(len(columns)) if i == 0 or not cells or any(line[i] != NOTHING for line in cells)]
    shared = [i for i in used if columns[i].once and len(cells) > 1 and len({line[i].text for line in cells}) == 1]
    used = [i for i in used if i not in shared]
    values = "; ".join(f"{columns[i].label.lower()} {cells[0][i].text}" for i in shared)
    if len(used) < len(columns):
        pick = itemgetter(*used) if len(used) > 1 else lambda line: (line[used[0]],)
        cells = [pick(line) for line in cells]
    return Table(
        caption=f"{caption} (all: {values})" if values else caption,
        columns=tuple(columns[i] for i in used),
        rows=tuple(cells),
    )
