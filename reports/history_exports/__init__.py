"""Exports of a history in the forms of other tools.

To add one, write a function from a history and a path to the texts of files, and name it here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from arvbench.registry import Registry
from arvbench.results.history import History

Export = Callable[[History, Path], Mapping[Path, str]]
"""Function from a history and the path that the user named to the files of the export: path -> text."""

EXPORTS: Registry[Export] = Registry(
    "export",
    {
        "github-action-benchmark": "arvbench.reports.history_exports.github_action:github_action_benchmark",
        "bencher": "arvbench.reports.history_exports.bencher:bencher",
        "pytest-benchmark": "arvbench.reports.history_exports.pytest_benchmark:pytest_benchmark",
        "otava": "arvbench.reports.history_exports.otava:otava",
    },
)
"""Exports by the name of the tool that reads them."""
