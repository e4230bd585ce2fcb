"""Append-only file of records, `records.jsonl` in a run folder, that survives anything short of a broken disk.

Every append replaces the whole file (`files.write_whole`), so a reader sees all of a record or nothing of it. A file
whose last line was cut (by another program, a copy, a full disk) loses no older record: the damaged end is moved to
`records.jsonl.damaged`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from arvbench.errors import HostError, UserError
from arvbench.files import locked, write_whole
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

        Returns one notice per damaged line. Raises UserError before anything is measured.
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
        """Return all records, oldest first."""
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
        """Replace the file by its complete lines and `new`; return the damaged end that was set aside.

        The lock keeps other processes from writing between our reading and our renaming.
        """
        with locked(self.folder / ".lock"):
            content = self.path.read_bytes() if self.path.exists() else b""
            intact, damaged = _split(content)
            if damaged:
                with (self.folder / DAMAGED_NAME).open("ab") as aside:
                    aside.write(damaged + b"\n")
                    aside.flush()
                    os.fsync(aside.fileno())
            write_whole(self.path, intact + new)
        return damaged


def _split(content: bytes) -> tuple[bytes, bytes]:
    """Split into (complete lines, damaged end). A last line of whole JSON only lacks its newline."""
    complete, newline, tail = content.rpartition(b"\n")
    complete += newline
    if not tail.strip():
        return complete, b""
    try:
        json.loads(tail)
    except ValueError:
        return complete, tail
    return complete + tail + b"\n", b""
