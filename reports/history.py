"""The section of a report about the history of its numbers."""

from __future__ import annotations

from arvbench.reports.blocks import Block, FoldedTables, Text
from arvbench.reports.figures.history import draw_history
from arvbench.reports.svg import inline_figure
from arvbench.reports.tables.history import change_points_table, series_tables, summary_text
from arvbench.results.history import History

_WORDS = (
    "A change point splits the commits of a series into two that chance does not explain (E-divisive on ranks, with a "
    "permutation test), and whose medians differ by what matters. The change lies between the two commits named; "
    "commits in between were not measured. *Exact* numbers, such as bytes, need no test. *Drift*: a line fits better "
    "than steps, so no commit is named. *Machine*: fixed work moved as well. The other sections show the newest commit."
)


def history_blocks(history: History | None) -> list[Block]:
    """Make the blocks of a history; none without one."""
    if history is None:
        return []
    figure = inline_figure("history", lambda _records: draw_history(history), ())
    tables = [table for table in (change_points_table(history),) if table]
    series = FoldedTables(series_tables(history))
    return [Text(f"{summary_text(history)} {_WORDS}", short=summary_text(history)), *([figure] if figure else []),
            *tables, series]  # fmt: skip
