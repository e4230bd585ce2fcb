"""Suites of this package by name. Listing them reads none, so that `--help` need not pay for it."""

from __future__ import annotations

from pathlib import Path

SUITES_FOLDER = Path(__file__).parent


def built_in_suites(folder: Path = SUITES_FOLDER) -> dict[str, Path]:
    """Return the YAML files of the suites in this package, by name."""
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
