"""The rows of a report as data, for `arvbench report --json`: one entry per case, whatever its launches.

Units    _ms milliseconds per call
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from arvbench.reports.cases import case_names
from arvbench.reports.tables.measures import SCOPES
from arvbench.results.launches import launches_of
from arvbench.results.schema import Measured, Record, Status, Timing
from arvbench.results.search import MARK
from arvbench.results.statistics import find_timing, milliseconds, variation


class TimeSummary(BaseModel):
    """Time of one scope."""

    model_config = ConfigDict(frozen=True)

    scope: str
    median_ms: float
    """Median of the launches' medians; of a single launch, of its calls."""
    interval_ms: tuple[float, float] | None
    """None for fewer than 6 launches, or calls of a single launch."""
    level: float | None
    """Probability with which the interval covers the median, 0..1; None without one."""
    interval_over: Literal["launches", "calls within one process"]
    samples: int
    """Launches, or calls of a single launch."""
    cv_within: float | None
    """Coefficient of variation of the calls of a launch; None when no launch has two."""
    cv_between: float | None
    """That of the launches' medians; None for a single launch."""


class CaseSummary(BaseModel):
    """One row of the report."""

    model_config = ConfigDict(frozen=True)

    case: str
    status: Status
    launches: int
    record_ids: tuple[str, ...]
    """Records behind the row, in the order of the launches."""
    search: str | None = None
    """Place of the row in its search, such as "best of 5"; None for a case of no search."""
    times: tuple[TimeSummary, ...]
    """Empty for a case without numbers."""


def summarise(records: Sequence[Record]) -> tuple[CaseSummary, ...]:
    """Summarise the rows of a report, launches merged."""
    names = case_names(records)
    return tuple(
        CaseSummary(
            case=names[record.record_id],
            status=record.status,
            launches=len(launches_of(record)),
            search=record.case_id.partition(MARK)[2] if record.case.search is not None else None,
            record_ids=tuple(launch.record_id for launch in launches_of(record)),
            times=_times(record.outcome) if isinstance(record.outcome, Measured) else (),
        )
        for record in records
    )


def _times(outcome: Measured) -> tuple[TimeSummary, ...]:
    timings = [find_timing(outcome, scope) for scope in SCOPES]
    return tuple(_time(timing) for timing in timings if timing is not None)


def _time(timing: Timing) -> TimeSummary:
    estimate, cv = milliseconds(timing), variation(timing)
    return TimeSummary(
        scope=timing.scope,
        median_ms=estimate.value,
        interval_ms=None if estimate.low is None or estimate.high is None else (estimate.low, estimate.high),
        level=estimate.level,
        interval_over="launches" if estimate.launches > 1 else "calls within one process",
        samples=estimate.samples,
        cv_within=cv.within,
        cv_between=cv.between,
    )
