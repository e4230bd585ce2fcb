"""Reader of records files: one JSON object per line, as `arvbench run` writes them.

A killed run may leave its last line cut; a disk or an editor may damage others. Good lines are read, and each bad line
is reported with its number and the reason.
"""

from __future__ import annotations

import gc
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from arvbench.errors import UserError
from arvbench.paths import regular_file
from arvbench.results.launches import case_key
from arvbench.results.schema import SCHEMA_VERSION, Record
from arvbench.results.search import search_family, search_key

RECORDS_NAME = "records.jsonl"
"""Name of the records file in a run folder."""
_LONGEST_LINE = 2**27
"""Bytes of a line beyond which it is not read: a record takes kilobytes, with a picture in it a few megabytes."""
_BUFFER = 2**20
"""Bytes read at once: with the usual 8 KiB, most records are put together from several pieces."""
_MANY_OBJECTS = 20_000
"""New objects whose collection takes a millisecond."""


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


def read_records(path: str | Path, *, start: int = 0) -> RecordsFile:
    """Read a records file, or the records.jsonl of a run folder; damaged lines are skipped and reported.

    `start` is the byte where the first line to read begins; that line has number 1.

    An empty file, from a run that has not finished a case yet, gives no records. Raises UserError when the file does
    not exist or cannot be read.
    """
    path = _records_path(Path(path))
    regular_file(path)
    records: list[Record] = []
    damaged: list[DamagedLine] = []
    try:
        with path.open("rb", buffering=_BUFFER) as file, uncollected():
            file.seek(start)
            for number, line, whole in _lines(file):
                if not line.strip():
                    continue
                try:
                    if not whole:
                        raise UserError(f"longer than {_LONGEST_LINE:,} bytes")
                    records.append(Record.model_validate_json(line))
                except ValidationError as error:
                    reason = _reason(error, cut=not line.endswith(b"\n"))
                    damaged.append(DamagedLine(path=path, number=number, reason=reason))
                except UserError as error:
                    damaged.append(DamagedLine(path=path, number=number, reason=str(error)))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    return RecordsFile(path=path, records=tuple(records), damaged_lines=tuple(damaged))


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes, bool]]:
    """Yield (number, line, whether it is whole); of a line that is too long, only the beginning is kept."""
    start = file.tell()
    if file.read(len(BOM_UTF8)) != BOM_UTF8:  # which some editors write
        file.seek(start)
    for number in count(1):
        line = file.readline(_LONGEST_LINE)
        if not line:
            return
        whole = len(line) < _LONGEST_LINE or line.endswith(b"\n")
        piece = b"" if whole else line
        while piece and not piece.endswith(b"\n"):
            piece = file.readline(_BUFFER)
        yield number, line, whole


@contextmanager
def uncollected() -> Iterator[None]:
    """Pause garbage collection: records have no cycles, and collections in between would visit all of them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            # To count what is frozen takes as long as a look at all of it, which few new objects are not worth.
            if gc.get_count()[0] > _MANY_OBJECTS and gc.get_freeze_count() == 0:
                # What was made is old, and joins the oldest generation without a visit; else the next object would
                # start a collection of all of it.
                gc.freeze()
                gc.unfreeze()
            gc.enable()


def newest_of_each_case(records: Iterable[Record]) -> tuple[Record, ...]:
    """Select the last record of each launch of each case and processor, in the order of the cases.

    The last record of a case decides what was measured: launches of another source, other libraries or other settings
    are older measurements, and so are the tries of a search over other values. The order of the records counts, not
    their times: a clock may be set back between two runs.
    """
    newest: dict[object, dict[tuple[str, int], Record]] = {}
    for record in records:
        launches = newest.setdefault(search_family(record) or case_key(record), {})
        if launches and _measurement(next(iter(launches.values()))) != _measurement(record):
            launches.clear()
        launches[record.case_id, record.launch] = record
    return tuple(record for launches in newest.values() for record in sorted(launches.values(), key=_place))


def _place(record: Record) -> tuple[int, int]:
    return (record.case.search.number if record.case.search else 0, record.launch)


def _measurement(record: Record) -> object:
    """Return what is equal for all launches of one measurement, whatever the first launch does besides."""
    if (key := search_key(record, with_quality=False)) is not None:
        return key
    environment = record.environment
    only_first = {"launches", "quality", "sample_sheet"}
    case = record.case.model_dump(mode="json", exclude=only_first)
    return (case, environment.source_sha256, environment.libraries)


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
