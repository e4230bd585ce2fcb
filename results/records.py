"""Reader of records files: one JSON object per line, as `arvbench run` writes them.

A killed run may leave its last line cut; a disk or an editor may damage others. Good lines are read, and each bad line
is reported with its number and the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from arvbench.errors import UserError
from arvbench.paths import regular_file
from arvbench.results.schema import SCHEMA_VERSION, Record

RECORDS_NAME = "records.jsonl"
"""Name of the records file in a run folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DamagedLine:
    """Line without a valid record."""

    path: Path
    number: int
    """Line number, from 1."""
    reason: str

    def __str__(self) -> str:
        return f"{self.path}, line {self.number}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordsFile:
    """Content of one records file."""

    path: Path
    records: tuple[Record, ...]
    damaged_lines: tuple[DamagedLine, ...]

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)


def read_records(path: Path) -> RecordsFile:
    """Read a records file, or the records.jsonl of a run folder; damaged lines are skipped and reported.

    An empty file, from a run that has not finished a case yet, gives no records. Raises UserError when the file does
    not exist or cannot be read.
    """
    path = _records_path(path)
    regular_file(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    records: list[Record] = []
    damaged: list[DamagedLine] = []
    lines = content.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            records.append(Record.model_validate_json(line))
        except ValidationError as error:
            cut = number == len(lines)
            damaged.append(DamagedLine(path=path, number=number, reason=_reason(error, cut=cut)))
    return RecordsFile(path=path, records=tuple(records), damaged_lines=tuple(damaged))


def newest_of_each_case(records: Iterable[Record]) -> tuple[Record, ...]:
    """Select the record that was started last for each case and processor, in the order of the cases.

    Case names omit weights and threads: records that differ in these are different cases.
    Of records with equal times, the later one in the file counts.
    """
    newest: dict[tuple[object, ...], Record] = {}
    for record in records:
        gpu, case = record.environment.gpu, record.case
        processor = record.environment.cpu if gpu is None else gpu.name
        key = (record.suite, record.case_id, case.weights, case.threads, processor)
        known = newest.get(key)
        if known is None or in_utc(record.started) >= in_utc(known.started):
            newest[key] = record
    return tuple(newest.values())


def in_utc(moment: datetime) -> datetime:
    """Convert to UTC; a time without a zone is taken as UTC."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _records_path(path: Path) -> Path:
    """Return the records file of a run folder, or `path` itself; UserError when it does not exist."""
    if path.is_dir():
        inside = path / RECORDS_NAME
        if not inside.is_file():
            raise UserError(f"no {RECORDS_NAME} in folder {path}: give a run folder or a records file")
        return inside
    if not path.exists():
        raise UserError(f"no such file or folder: {path}")
    return path


def _reason(error: ValidationError, *, cut: bool) -> str:
    """Describe the first error on one line. `cut`: the line has no newline at its end."""
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return "cut in mid-line (the run was interrupted while writing)" if cut else "not JSON"
    where = ".".join(str(part) for part in first["loc"]) or "record"
    if first["loc"] == ("schema_version",):
        return f"its schema is not version {SCHEMA_VERSION}: read it with the arvbench that wrote it"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"not a valid record: {where}: {first['msg']}{more}"
