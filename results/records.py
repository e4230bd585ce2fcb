"""Reader of records files: one JSON object per line, as `arvbench run` writes them.

A killed run may leave its last line cut; a disk or an editor may damage others. Good lines are read, and each bad line
is reported with its number and the reason.
"""

from __future__ import annotations

import gc
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated, Any, BinaryIO
from uuid import uuid4

from pydantic import ConfigDict, Field, ValidationError, ValidationInfo, ValidatorFunctionWrapHandler, WrapValidator

from arvbench.errors import UserError
from arvbench.paths import regular_file
from arvbench.results.launches import case_key
from arvbench.results.schema import SCHEMA_VERSION, Environment, Failed, Incorrect, Measured, Record, Setup
from arvbench.results.search import search_family, search_key

RECORDS_NAME = "records.jsonl"
"""Name of the records file in a run folder."""
_LONGEST_LINE = 2**27
"""Bytes of a line beyond which it is not read: a record takes kilobytes, with a picture in it a few megabytes."""
_BUFFER = 2**20
"""Bytes read at once: with the usual 8 KiB, most records are put together from several pieces."""
_MANY_OBJECTS = 20_000
"""New objects whose collection takes a millisecond."""
_SHARED: tuple[tuple[bytes, bytes, type[Environment] | type[Setup]], ...] = (
    (b',"environment":', b',"outcome":', Environment),
    (b',"setup":', b',"correctness":', Setup),
)
"""Parts that many records of a file have alike: what stands before them, what stands after them, and their kind."""
_PATIENCE = 1000
"""Lines with parts of their own, beyond those without, after which no parts are looked for: where none are
alike, that takes a sixth more time."""
_KEPT_BYTES = 2**24
"""Text of parts beyond which those seen so far are forgotten, and of a line beyond which none is looked for."""


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
    reader = _Reader()
    try:
        with path.open("rb", buffering=_BUFFER) as file, uncollected():
            file.seek(start)
            for number, line, whole in _lines(file):
                if not line.strip():
                    continue
                try:
                    if not whole:
                        raise UserError(f"longer than {_LONGEST_LINE:,} bytes")
                    records.append(reader.record(line))
                except ValidationError as error:
                    reason = _reason(error, cut=not line.endswith(b"\n"))
                    damaged.append(DamagedLine(path=path, number=number, reason=reason))
                except UserError as error:
                    damaged.append(DamagedLine(path=path, number=number, reason=str(error)))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    return RecordsFile(path=path, records=tuple(records), damaged_lines=tuple(damaged))


def _handed_over(given: Any, validate: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    """Return the part that `given` names in the context of the call; anything else is data."""
    parts: dict[str, Environment | Setup] = info.context or {}
    return parts[given] if isinstance(given, str) and given in parts else validate(given)


_ByName = WrapValidator(_handed_over)


# Records proper have fields without this validator, which makes objects of the JSON that it is given.
class _Measured(Measured):
    model_config = ConfigDict(defer_build=True)
    setup: Annotated[Setup, _ByName]


class _Incorrect(Incorrect):
    model_config = ConfigDict(defer_build=True)
    setup: Annotated[Setup, _ByName]


class _Record(Record):
    """Record whose parts may be names."""

    model_config = ConfigDict(defer_build=True)
    environment: Annotated[Environment, _ByName]
    outcome: Annotated[_Measured | _Incorrect | Failed, Field(discriminator="status")]


class _Reader:
    """Validates lines; records share one object for parts of equal text, which is validated once."""

    def __init__(self) -> None:
        # Text of a file that names a part would be taken for it, so nobody can know the names.
        self._names = [uuid4().hex for _ in _SHARED]
        self._known: dict[bytes, Environment | Setup] = {}
        self._known_bytes = 0
        self._patience = _PATIENCE

    def record(self, line: bytes) -> Record:
        """Return the record of a line. Raises ValidationError."""
        with suppress(ValidationError):
            named, parts = self._with_names(line) if self._patience > 0 else (line, {})
            if len(parts) == len(_SHARED):
                record = _Record.model_validate_json(named, context=parts)
                outcome = record.outcome
                # What looks like a part may stand elsewhere: a name in the place of a part stands for JSON of its own.
                found = (record.environment, getattr(outcome, "setup", None))
                if all(part is there for part, there in zip(parts.values(), found, strict=True)):
                    # What others get has nothing of how it was read.
                    object.__setattr__(outcome, "__class__", type(outcome).__base__)
                    object.__setattr__(record, "__class__", Record)
                    return record
        return Record.model_validate_json(line)

    def _with_names(self, line: bytes) -> tuple[bytes, dict[str, Environment | Setup]]:
        """Return the line with names in place of its parts, and name -> part. Raises ValidationError."""
        pieces: list[bytes] = []
        parts: dict[str, Environment | Setup] = {}
        end, known = 0, len(self._known)
        for name, (before, after, kind) in zip(self._names, _SHARED, strict=True):
            place = line.find(before, end)
            start, stop = place + len(before), line.find(after, place)
            if place < 0 or stop < 0 or len(line) > _KEPT_BYTES:
                break
            parts[name] = self._part(line[start:stop], kind)
            pieces += (line[end:start], f'"{name}"'.encode())
            end = stop
        self._patience += 1 if len(self._known) == known else -1
        return b"".join((*pieces, line[end:])), parts

    def _part(self, text: bytes, kind: type[Environment] | type[Setup]) -> Environment | Setup:
        if text not in self._known:
            self._known_bytes += len(text)
            if self._known_bytes > _KEPT_BYTES:
                self._known, self._known_bytes = {}, len(text)
            self._known[text] = kind.model_validate_json(text)
        return self._known[text]


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
