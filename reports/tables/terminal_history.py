"""A history for a terminal: a sentence, and one row for each change point, none of which wraps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from arvbench.reports.tables.history import narrow_history_table, notices_of, summary_text
from arvbench.reports.tables.rich_table import titled_table
from arvbench.results.history import History

if TYPE_CHECKING:
    from rich.console import RenderableType


def terminal_history(history: History, *, width: int = 80) -> RenderableType:
    """Draw a history for a terminal of `width` columns."""
    from rich.console import Group
    from rich.text import Text

    shared, table = narrow_history_table(history, width)
    title = f"Change points, the worst first{f', of {shared}' if shared else ''}"
    drawn = titled_table(title, table, width, naming=len(table.columns) - 4) if table else []
    notices = [Text(f"note: {text}", style="dim") for text in notices_of(history)]
    return Group(Text(summary_text(history)), Text(), *drawn, *([Text()] if drawn else []), *notices, Text())
