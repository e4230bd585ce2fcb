"""Choosing records by what they measured and how they ended."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase

from arvbench.errors import UserError
from arvbench.results.moments import in_utc
from arvbench.results.schema import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Conditions that a record meets all of; an empty one is no condition."""

    ids: tuple[str, ...] = ()
    """Beginnings of record ids."""
    models: tuple[str, ...] = ()
    """Patterns, as `suites`."""
    suites: tuple[str, ...] = ()
    statuses: tuple[str, ...] = ()
    before: datetime | None = None
    """Begin of the measurement, by the clock of its machine."""

    def __bool__(self) -> bool:
        return bool(self.ids or self.models or self.suites or self.statuses or self.before)

    def takes(self, record: Record) -> bool:
        """Return whether a record meets all conditions."""
        return (
            (not self.ids or record.record_id.startswith(self.ids))
            and _any(record.case.model, self.models)
            and _any(record.suite, self.suites)
            and (not self.statuses or record.status in self.statuses)
            and (self.before is None or in_utc(record.started) < in_utc(self.before))
        )

    def choose(self, records: Iterable[Record]) -> list[Record]:
        """Return the records that meet all conditions, in order."""
        return [record for record in records if self.takes(record)]


def record_of(records: Iterable[Record], id_prefix: str) -> Record:
    """Return the one record whose id begins so. Raises UserError for none and for several."""
    found = Filter(ids=(id_prefix,)).choose(records)
    if len(found) != 1:
        many = ", ".join(record.record_id[:12] for record in found[:5])
        raise UserError(f"{len(found)} records have an id that begins with {id_prefix!r}{': ' + many if many else ''}")
    return found[0]


def _any(name: str, patterns: tuple[str, ...]) -> bool:
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)
