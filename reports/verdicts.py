"""Verdicts that lie beside the records of a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from arvbench.errors import UserError
from arvbench.reports.blocks import Block, Text
from arvbench.reports.tables.changes import changes_table, whole_table
from arvbench.results.records import RECORDS_NAME, RecordsFile
from arvbench.results.verdict import VERDICT_NAME, Check, read_verdict

_SIDES = ("base", "head")


def records_of(path: Path) -> tuple[Path, ...]:
    """Return the run folders behind a path: both sides of a check, or the path itself."""
    sides = tuple(path / side for side in _SIDES if (path / side / RECORDS_NAME).is_file())
    return sides if sides and not (path / RECORDS_NAME).exists() else (path,)


def load_verdicts(files: Sequence[RecordsFile]) -> tuple[list[Check], list[str]]:
    """Read the verdicts beside records files, or above the sides of a check, and say which cannot be shown.

    A verdict on other records than those of the files is left out: a page shows one measurement.
    """
    folders = [
        folder for file in files for folder in (file.path.parent, *_above(file.path.parent)) if folder is not None
    ]
    ids = {record.record_id for file in files for record in file.records}
    checks, complaints = [], []
    for path in dict.fromkeys(folder / VERDICT_NAME for folder in folders):
        if not path.exists():
            continue
        try:
            check = read_verdict(path)
        except UserError as error:
            complaints.append(f"Skipped a damaged verdict: {error}.")
            continue
        behind = {*check.base.record_ids, *check.head.record_ids}
        if behind and not behind & ids:
            complaints.append(f"Skipped {path}: it is the verdict on other records, of run {check.run_id}.")
        else:
            checks.append(check)
    return checks, complaints


def _above(folder: Path) -> tuple[Path, ...]:
    return (folder.parent,) if folder.name in _SIDES else ()


def verdict_blocks(checks: Sequence[Check]) -> list[Block]:
    """Make the blocks of the verdicts."""
    text = Text(
        "Head over base, the worst first. The unit of a time is the launch, a fresh process. *Smallest detectable*: "
        "change that these launches would show with a probability of 95 %; numbers of bytes are exact and need none. "
        "A number is *inconclusive* when changes that matter could hide in its noise, *machine* when fixed work was "
        "slower too, and *unusable* when a side does not have it."
    )
    tables = [table for check in checks for table in (whole_table(check), changes_table(check)) if table]
    return [text, *tables] if tables else []
