"""Append-only file of records, `records.jsonl` in a run folder, that survives anything short of a broken disk.

Every append replaces the whole file (`files.write_whole`), so a reader sees all of a record or nothing of it. A file
whose last line was cut (by another program, a copy, a full disk) loses no older record: the damaged end is moved to
`records.jsonl.damaged`, once, whatever kills us meanwhile.
"""

from __future__ import annotations

import errno
import json
from pathlib import Path

from arvbench.errors import HostError, UserError
from arvbench.files import hidden, locked, remove_dead, write_whole
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
            remove_dead(self.path)
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

    def mentions(self, record_id: str) -> bool:
        """Return whether a record of this id stands in the file, or in what was set aside: also a damaged one."""
        wanted = record_id.encode()
        return any(wanted in _content(self.folder / name) for name in (RECORDS_NAME, DAMAGED_NAME))

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
        with locked(hidden(self.path, "lock")):
            intact, damaged = _split(_content(self.path))
            if damaged:
                self._set_aside(damaged)
            write_whole(self.path, intact + new)
        return damaged

    def _set_aside(self, damaged: bytes) -> None:
        """Add a damaged end to the file of such ends, unless a process that was killed right then has done so."""
        path = self.folder / DAMAGED_NAME
        before = _content(path)
        if not before.endswith(damaged + b"\n"):
            write_whole(path, before + damaged + b"\n")


def _content(path: Path) -> bytes:
    """Return the content of a file, empty where there is none. Raises OSError for what is no file, a pipe included."""
    if not path.exists():
        return b""
    if path.is_dir() or not path.is_file():
        raise OSError(errno.EINVAL, f"{path.name} is no file", str(path))
    return path.read_bytes()


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
