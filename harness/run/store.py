"""Append-only file of records, `records.jsonl` in a run folder, that survives anything short of a broken disk.

An append writes one line behind the others and flushes it to the disk, at a cost that does not depend on the others. A
line that a kill or a full disk cut short is damaged; no older record is. Such an end is moved to
`records.jsonl.damaged`, once, whatever kills us meanwhile, before anything else is appended. A reader beside a writer
may find the last line incomplete; the next time it reads, that line is whole. Methods of the store wait for the writer.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Collection
from pathlib import Path

from arvbench.errors import HostError, UserError
from arvbench.files import hidden, locked, remove_dead, write_whole
from arvbench.results.records import RECORDS_NAME, read_records
from arvbench.results.schema import Record

DAMAGED_NAME = f"{RECORDS_NAME}.damaged"
PRUNED_NAME = "records.pruned.jsonl"
"""File beside the records that `remove` takes away."""


class RecordStore:
    """The records of one run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / RECORDS_NAME
        self._records: list[Record] = []
        self._read_to = (0, 0)
        """Inode of the file that `_records` came from, and the place where the next line begins."""

    def prepare(self) -> list[str]:
        """Make the folder, prove that it can be written, and set a cut last line aside.

        Returns one notice per damaged line. Raises UserError before anything is measured.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._locked():
                damaged = self._mend()
                found = read_records(self.path)
            remove_dead(self.path)
        except OSError as error:
            raise UserError(
                f"cannot write results to {self.folder}: {error.strerror or error}; choose another folder with --out"
            ) from error
        notices = [f"{line} (skipped)" for line in found.damaged_lines]
        if damaged:
            notices.append(
                f"the last line of {self.path} was cut ({len(damaged)} bytes): it is now in {DAMAGED_NAME}, older "
                "records are intact"
            )
        return notices

    def records(self) -> list[Record]:
        """Return all records, oldest first; complete lines are read once, while the file is the same."""
        if not self.path.exists():
            return []
        try:
            with self._locked():
                state = self.path.stat()
                inode, start = self._read_to
                if inode != state.st_ino or start > state.st_size:
                    self._records, start = [], 0
                new = read_records(self.path, start=start).records
                if not _ends_well(self.path):
                    return [*self._records, *new]
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror or error}") from error
        self._records += new
        self._read_to = state.st_ino, state.st_size
        return list(self._records)

    def holds(self, record_id: str) -> bool:
        """Return whether a complete line of the file has this id: also a damaged one, but not one that was cut."""
        complete, _, _ = _content(self.path).rpartition(b"\n")
        return record_id.encode() in complete

    def mentions(self, record_id: str) -> bool:
        """Return whether this id stands anywhere in the file, or in what was set aside."""
        wanted = record_id.encode()
        return any(wanted in _content(self.folder / name) for name in (RECORDS_NAME, DAMAGED_NAME))

    def append(self, record: Record) -> None:
        """Add one record; when this returns, it is on disk. Raises HostError when the disk refuses it."""
        try:
            with self._locked():
                if not _ends_well(self.path):
                    self._mend()
                _append(self.path, record.model_dump_json().encode() + b"\n")
        except OSError as error:
            raise HostError(
                f"cannot add case {record.case_id!r} to {self.path}: {error.strerror or error}; older records are "
                "intact: make room and run the same command again"
            ) from error

    def remove(self, ids: Collection[str]) -> int:
        """Move the records with these ids to `records.pruned.jsonl`; return their number. Other lines stay as they are.

        The lines are there before they are gone here: a kill in between doubles them, and loses none.
        """
        try:
            with self._locked():
                lines = _content(self.path).splitlines(keepends=True)
                gone = [line for line in lines if _id_of(line) in ids]
                pruned = self.folder / PRUNED_NAME
                write_whole(pruned, _content(pruned) + b"".join(gone))
                write_whole(self.path, b"".join(line for line in lines if _id_of(line) not in ids))
        except OSError as error:
            raise HostError(f"cannot prune {self.path}: {error.strerror or error}; nothing was removed") from error
        return len(gone)

    def _locked(self) -> contextlib.AbstractContextManager[bool]:
        """Keep other processes from writing meanwhile."""
        return locked(hidden(self.path, "lock"))

    def _mend(self) -> bytes:
        """Replace the file by its complete lines; return the damaged end that was set aside."""
        intact, damaged = _split(_content(self.path))
        if damaged:
            self._set_aside(damaged)
        write_whole(self.path, intact)
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


def _id_of(line: bytes) -> str:
    """Return the record id of a line; "" for a damaged one."""
    try:
        content = json.loads(line)
    except ValueError:
        return ""
    return str(content.get("record_id", "")) if isinstance(content, dict) else ""


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


def _ends_well(path: Path) -> bool:
    """Return whether a line can be added to `path`: it is a file, no link, and its last line is complete."""
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _append(path: Path, line: bytes) -> None:
    """Add a line and flush it to the disk; where that fails, take back what was written of it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)
    try:
        before = os.fstat(descriptor).st_size
        try:
            left = memoryview(line)
            while left:
                left = left[os.write(descriptor, left) :]
            os.fsync(descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, before)
            raise
    finally:
        os.close(descriptor)
