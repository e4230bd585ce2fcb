"""Append-only file of records, `records.jsonl` in a run folder, that survives anything short of a broken disk.

Every append writes the whole file to a temporary one, flushes it to disk and renames it over the old file, so a
reader sees all of a record or nothing of it. A file whose last line was cut (by another program, a copy, a full disk)
loses no older record: the damaged end is moved to `records.jsonl.damaged`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from arvbench.errors import HostError, UserError
from arvbench.results.records import RECORDS_NAME, read_records
from arvbench.results.schema import Record

DAMAGED_NAME = f"{RECORDS_NAME}.damaged"


class RecordStore:
    """The records of one run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / RECORDS_NAME

    def prepare(self) -> list[str]:
        """Make the folder, prove that it can be written, and set a cut last line aside.

        Returns one line for everything that is damaged. Raises UserError before anything is measured.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            damaged = self._rewrite(b"")
        except OSError as error:
            raise UserError(
                f"cannot write results to {self.folder}: {error.strerror or error}; choose another folder with --out"
            ) from error
        notices = [f"{line} (skipped)" for line in read_records(self.path).damaged_lines]
        if damaged:
            notices.append(
                f"the last line of {self.path} was cut ({len(damaged)} bytes): it is now in {DAMAGED_NAME}, older "
                "records are intact"
            )
        return notices

    def records(self) -> list[Record]:
        """All records, oldest first."""
        return list(read_records(self.path)) if self.path.exists() else []

    def append(self, record: Record) -> None:
        """Add one record; when this returns, it is on disk. Raises HostError when the disk refuses it."""
        try:
            self._rewrite(record.model_dump_json().encode() + b"\n")
        except OSError as error:
            raise HostError(
                f"cannot add case {record.case_id!r} to {self.path}: {error.strerror or error}; older records are "
                "intact: make room and run the same command again"
            ) from error

    def _rewrite(self, new: bytes) -> bytes:
        """Replace the file by its complete lines and `new`; return the damaged end that was set aside."""
        with self._locked():
            content = self.path.read_bytes() if self.path.exists() else b""
            intact, damaged = _split(content)
            if damaged:
                _write_durably(self.folder / DAMAGED_NAME, damaged + b"\n", "ab")
            self._replace(intact + new)
        return damaged

    def _replace(self, content: bytes) -> None:
        temporary = self.path.with_name(f".{RECORDS_NAME}.{os.getpid()}")
        try:
            _write_durably(temporary, content, "wb")
            temporary.replace(self.path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(self.folder)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes from writing between our reading and our renaming."""
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _split(content: bytes) -> tuple[bytes, bytes]:
    """(complete lines, damaged end). A last line without a newline that is whole JSON only lacks the newline."""
    complete, newline, tail = content.rpartition(b"\n")
    complete += newline
    if not tail.strip():
        return complete, b""
    try:
        json.loads(tail)
    except ValueError:
        return complete, tail
    return complete + tail + b"\n", b""


def _write_durably(path: Path, content: bytes, mode: Literal["wb", "ab"]) -> None:
    with path.open(mode) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
