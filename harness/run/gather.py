"""Records of several runs in one folder, each once, with their sample sheets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from arvbench.disk import cannot_write
from arvbench.errors import UserError
from arvbench.files import write_whole
from arvbench.harness.run.store import RecordStore
from arvbench.results.records import RecordsFile, read_records
from arvbench.results.schema import Measured, Record
from arvbench.results.select import Filter


def gather(paths: Sequence[Path], store: RecordStore, chosen: Filter) -> tuple[int, int]:
    """Add the chosen records of run folders or records files to a store; return (added, already there).

    Their order is kept: the last record of a case counts, and clocks of machines are not compared. Raises UserError for
    one id with two contents, and for a sample sheet that is missing or not the recorded one, before it adds anything.
    """
    files = [read_records(path) for path in paths]
    there = {record.record_id: record for record in store.records()}
    added: dict[str, Record] = {}
    again = 0
    for file in files:
        for record in chosen.choose(file):
            known = there.get(record.record_id) or added.get(record.record_id)
            if known is not None and known != record:
                raise UserError(f"record {record.record_id} has two contents: {file.path} has another one")
            again += known is not None
            added.setdefault(record.record_id, record)
    new = {record_id for record_id in added if record_id not in there}
    sheets = _sheets(files, new)
    for name, content in sheets.items():
        try:
            (store.folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_whole(store.folder / name, content)
        except OSError as error:
            raise cannot_write(store.folder / name, error) from error
    for record_id in added:
        if record_id in new:
            store.append(added[record_id])
    return len(new), again


def _sheets(files: Iterable[RecordsFile], wanted: set[str]) -> dict[str, bytes]:
    """Return the sample sheets of records by their path in a run folder, each with the recorded digest."""
    sheets: dict[str, bytes] = {}
    for file in files:
        for record in file:
            if record.record_id not in wanted or not isinstance(record.outcome, Measured):
                continue
            if (sheet := record.outcome.sample_sheet) is not None:
                name = Path(sheet.path)
                if name.is_absolute() or ".." in name.parts:
                    raise UserError(f"{file.path}: the sample sheet {sheet.path!r} is outside of its run folder")
                sheets[sheet.path] = _checked(file.path.parent / name, sheet.sha256)
    return sheets


def _checked(path: Path, sha256: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the sample sheet {path}: {error.strerror or error}") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(f"{path} is not the sample sheet of its record: its digest differs")
    return content
