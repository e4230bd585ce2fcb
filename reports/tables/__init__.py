"""The tables of a report: each function turns records into one `Table`, without a thought for how it is written."""

from __future__ import annotations

from arvbench.reports.tables.measures import cache_table, memory_table, scopes_table, step_table
from arvbench.reports.tables.provenance import (
    correctness_table,
    deviations_table,
    environment_tables,
    recipes_table,
    settings_table,
    weights_table,
)
from arvbench.reports.tables.quality import findings_table, protocols_table, quality_table
from arvbench.reports.tables.results import failures_table, results_table
from arvbench.reports.tables.terminal import terminal_table

__all__ = [
    "cache_table",
    "correctness_table",
    "deviations_table",
    "environment_tables",
    "failures_table",
    "findings_table",
    "memory_table",
    "protocols_table",
    "quality_table",
    "recipes_table",
    "results_table",
    "scopes_table",
    "settings_table",
    "step_table",
    "terminal_table",
    "weights_table",
]
