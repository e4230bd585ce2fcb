"""Blocks of a report as data: HTML and Markdown write the same blocks, each in its own way.

Words of the program (`Text`, `Terms`) are trusted and may hold `code`, *emphasis*, ^superscripts^ and
[links](#section). Everything else may come from a record and is untrusted.
"""

from __future__ import annotations

from dataclasses import dataclass

from arvbench.reports.samples import SamplePicture
from arvbench.reports.svg import InlineFigure
from arvbench.reports.table import Table


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph that explains the blocks around it."""

    words: str
    short: str = ""
    """Words in Markdown, where most tables stand without explanation."""


@dataclass(frozen=True, slots=True)
class FoldedTables:
    """Tables that the page shows under their captions when they are opened; a single one is open."""

    tables: tuple[Table, ...]


@dataclass(frozen=True, slots=True)
class Code:
    """Preformatted lines."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """Preformatted text that the page shows under its heading when it is opened: a traceback, a configuration."""

    heading: str
    text: str


@dataclass(frozen=True, slots=True)
class Pictures:
    """Sample sheets, side by side."""

    pictures: tuple[SamplePicture, ...]


@dataclass(frozen=True, slots=True)
class Terms:
    """Explained words."""

    entries: tuple[tuple[str, str], ...]
    """(term, meaning)."""


Block = Text | Table | FoldedTables | InlineFigure | Pictures | Code | Passage | Terms


@dataclass(frozen=True, slots=True, kw_only=True)
class FilledSection:
    """A section that the records have something for."""

    heading: str
    blocks: tuple[Block, ...]
