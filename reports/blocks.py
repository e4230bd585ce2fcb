"""Blocks of a report as data: HTML and Markdown write the same blocks, each in its own way.

The program's own words (`Text`, `Terms`) are trusted and may hold `code`, *emphasis*, ^superscripts^ and
[links](#section). Everything else may come from a record and is untrusted.
"""

from __future__ import annotations

from dataclasses import dataclass

from arvbench.reports.answer.statements import Statement
from arvbench.reports.samples import SamplePicture
from arvbench.reports.svg import InlineFigure
from arvbench.reports.table import Table


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph that explains the blocks around it."""

    words: str
    short: str = ""
    """Shorter text for Markdown, where most tables have no explanation."""


@dataclass(frozen=True, slots=True)
class FoldedTables:
    """Tables folded under their captions on the page; a single table starts open unless it is `closed`."""

    tables: tuple[Table, ...]
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Code:
    """Preformatted lines."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """Preformatted text folded under its heading on the page: a traceback, a configuration."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Sentence of what was compared, the findings in words, and their limits."""

    sentence: str
    statements: tuple[Statement, ...]
    left_out: int
    """Findings for which there is no room here; report.json has all."""
    cautions: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """The first image of every class by several models, from equal labels and noise."""

    classes: tuple[int, ...]
    image_px: int
    rows: tuple[tuple[str, str], ...]
    """(model, PNG as data URI)."""


Block = Findings | Strip | Text | Table | FoldedTables | InlineFigure | Pictures | Code | Passage | Terms


@dataclass(frozen=True, slots=True, kw_only=True)
class FilledSection:
    """A section with the blocks made from the records."""

    heading: str
    blocks: tuple[Block, ...]
