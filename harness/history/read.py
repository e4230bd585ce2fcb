"""Records for a history: those of clean commits, each once, and a sentence on every kind that is left out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from arvbench.errors import UserError
from arvbench.paths import printable
from arvbench.results.records import RecordsFile, read_records
from arvbench.results.schema import Measured, Record

_COMMIT = re.compile(r"[0-9a-f]{7,64}")


@dataclass(frozen=True, slots=True)
class Dated:
    """A record with the moment that orders it."""

    record: Record
    at: datetime
    """Begin of its measurement, or of the latest line above it in its file where that is later: a clock may have been
    set back, and lines are appended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usable:
    """Records that a history may hold, and why others are none of it."""

    records: tuple[Dated, ...]
    notices: tuple[str, ...]


def read_usable(paths: Sequence[Path]) -> Usable:
    """Read run folders and records files. Raises UserError for one that cannot be read, and for too few commits."""
    usable = usable_of(map(read_records, paths))
    commits = list(dict.fromkeys(str(dated.record.environment.git_commit) for dated in usable.records))
    if len(commits) < 2:
        named = f"one commit alone ({commits[0][:12]})" if commits else "no commit"
        why = "".join(f"; {notice}" for notice in usable.notices)
        raise UserError(f"{_listed(paths)}: usable records are of {named}: a history needs two or more{why}")
    return usable


def usable_of(files: Iterable[RecordsFile]) -> Usable:
    """Choose the records of a history."""
    kept: list[Dated] = []
    left_out: Counter[str] = Counter()
    known: set[str] = set()
    set_back: list[str] = []
    for file in files:
        latest: datetime | None = None
        for record in file.records:
            if latest is not None and record.started < latest and record.record_id not in known:
                set_back.append(printable(file.path))
            latest = record.started if latest is None else max(latest, record.started)
            if (reason := _why_not(record, known)) is not None:
                left_out[reason] += 1
            else:
                kept.append(Dated(record, latest))
            known.add(record.record_id)
        left_out["damaged lines"] += len(file.damaged_lines)
    notices = [f"left out: {count} {reason}" for reason, count in left_out.items() if count]
    if set_back:
        notices.append(
            f"{len(set_back)} records of {', '.join(dict.fromkeys(set_back))} begin before one above them (a clock was "
            "set back, or files were joined): the order of lines counts"
        )
    return Usable(records=tuple(kept), notices=tuple(notices))


def _why_not(record: Record, known: set[str]) -> str | None:
    """Return why a record is no part of a history, as a noun with its reason; None for one that is."""
    environment = record.environment
    if record.record_id in known:
        return "records that are there twice"
    if environment.git_commit is None or not _COMMIT.fullmatch(environment.git_commit):
        return "records without a commit"
    if environment.git_dirty is not False:
        return "records of a checkout with local changes: their commit alone is not what ran"
    if record.case.search is not None:
        return "tries of searches"
    if not isinstance(record.outcome, Measured):
        return "records of failed cases"
    return None


def _listed(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return ", ".join(printable(path) for path in paths[:3]) + more
