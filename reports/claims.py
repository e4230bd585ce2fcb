"""Outcomes of claims that lie beside the records of a report, and their section."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from arvbench.errors import UserError
from arvbench.reports.blocks import Block, FoldedTables, Text
from arvbench.reports.tables.claims import claims_details, claims_table, verdict_counts
from arvbench.results.claims import OUTCOMES_NAME, Outcome, read_outcomes

HOW_TO_READ = (
    "A claimed number carries its own rounding: 44.2 stands for 44.15 to 44.25, 310 for 305 to 315, ~20 for 15 to 25. "
    "*Reproduced*: the outcome lies within it. *Direction only*: the outcome is on the claimed side of no change, and "
    "does not decide the number. *Needs weights*, *needs GPU*, *cannot be tested*: nothing here decides it."
)


def load_outcomes(folders: Sequence[Path]) -> tuple[list[Outcome], list[str]]:
    """Read the outcomes that lie beside records, and say which file cannot be shown."""
    outcomes: list[Outcome] = []
    complaints = []
    for path in dict.fromkeys(folder / OUTCOMES_NAME for folder in folders):
        if not path.exists():
            continue
        try:
            outcomes += read_outcomes(path).outcomes
        except UserError as error:
            complaints.append(f"Skipped damaged claims: {error}.")
    return outcomes, complaints


def claim_blocks(outcomes: Sequence[Outcome]) -> list[Block]:
    """Make the blocks of the section on claims; empty without outcomes."""
    if not outcomes:
        return []
    counts = ", ".join(filter(None, verdict_counts(outcomes)))
    return [
        Text(f"{len(outcomes)} experiments: {counts}. {HOW_TO_READ}"),
        claims_table(outcomes, in_words=True),
        FoldedTables((claims_details(outcomes),), closed=True),
    ]
