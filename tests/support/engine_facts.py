"""Fields that records of equal cases share under every engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from arvbench.results.schema import Measured, Record


def facts(records: Sequence[Record]) -> list[Any]:
    """Return all of records that does not depend on time: identities, checks, quality, and digests."""
    found = []
    for record in records:
        outcome = record.outcome
        same: tuple[Any, ...] = (record.case_id, record.fingerprint, outcome.status)
        if isinstance(outcome, Measured):
            sheet = outcome.sample_sheet and outcome.sample_sheet.sha256
            same += outcome.setup, outcome.correctness, outcome.quality, outcome.findings, sheet
        found.append(same)
    return found
