"""Moments in records, verdicts and baselines: all in UTC, so that any two can be compared, whoever wrote them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator


def in_utc(moment: datetime) -> datetime:
    """Convert to UTC; a time without a zone is taken as UTC, and so is one that UTC has no year for."""
    if moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(UTC)
    except OverflowError:  # the first hours of the year 1 and the last of 9999
        return moment.replace(tzinfo=UTC)


Moment = Annotated[datetime, AfterValidator(in_utc)]
"""Moment in UTC, whatever zone or none was written."""
