"""Leftovers of killed runs: finished results become records, and files that no record needs are removed.

Runs may share the folder. What belongs to a living one is locked: the run itself (`jobs.run_lock`), its jobs
(`jobs.job_lock`), the features that it reads (".NAME.lock" beside them) and its temporaries. Half-measured cases stay
(halves.py).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from arvbench.errors import HostError
from arvbench.files import hidden, locked, own_name, remove, remove_dead_in, remove_dead_scratch
from arvbench.harness.jobs import (
    FEATURES_FOLDER,
    SHARED_PREFIX,
    SHEETS_FOLDER,
    Finished,
    job_lock,
    result_path,
    run_lock,
)
from arvbench.harness.run.store import RecordStore
from arvbench.results.schema import Record, Status

_RESULT = re.compile(r"\.result-(.+)\.json")
_LOCK = re.compile(r"(\.(?:job|case|run)-[0-9a-f]+\.lock)")
_SHEET = re.compile(r"([0-9a-f]{32})\.png")
_MARK = re.compile(r"measured-(.+)")
_TEMPORARY = re.compile(r"\..+\.part")
"""Names of `files.replacing` and of features on their way out."""


@contextmanager
def living(store: RecordStore) -> Iterator[str]:
    """Yield the id of a new run, which `lives` until the block ends."""
    run = uuid.uuid4().hex
    with _lock(run_lock(store.folder, run), wait=True):
        yield run


def lives(store: RecordStore, run: str) -> bool:
    """Return whether a run has not ended; a nameless one has."""
    if not run:
        return False
    with _lock(run_lock(store.folder, run), wait=False) as free:
        return not free


@contextmanager
def owned(store: RecordStore, record_id: str, *, wait: bool = False) -> Iterator[bool]:
    """Hold the job of a record; without `wait`, yield False when a runner is at it."""
    with _lock(job_lock(store.folder, record_id), wait=wait) as mine:
        yield mine


@contextmanager
def turn(store: RecordStore, identity: str, *, wait: bool = True) -> Iterator[bool]:
    """Hold a measurement, after any other run that is at it just now: it may be recorded then.

    Without `wait`, yields False while another one is at it.
    """
    with _lock(store.folder / f".case-{identity[:16]}.lock", wait=wait) as mine:
        yield mine


@contextmanager
def _lock(path: Path, *, wait: bool) -> Iterator[bool]:
    with ExitStack() as stack:
        try:
            mine = stack.enter_context(locked(path, wait=wait))
        except OSError as error:
            raise HostError(f"cannot write to {path.parent}: {error.strerror or error}") from error
        yield mine


def recover(store: RecordStore) -> None:
    """Add the results that no record holds yet to the store; then remove sample sheets and temporaries of no record."""
    for record_id in result_ids(store):
        with owned(store, record_id) as mine:
            if mine:
                _adopt(store, record_id)
    for name in _ids(store.folder, _LOCK):
        with _lock(store.folder / name, wait=False):
            pass  # a lock file goes with its last holder
    sheets = store.folder / SHEETS_FOLDER
    for record_id in _ids(sheets, _SHEET):
        with owned(store, record_id) as mine:
            if mine and not store.mentions(record_id):
                remove(sheets / f"{record_id}.png")
    for folder in (store.folder, sheets):
        remove_dead_in(folder, _TEMPORARY)
    remove_dead_scratch()
    clear_features(store)


def result_ids(store: RecordStore) -> list[str]:
    """Return the record ids of the finished results that no record holds yet."""
    return _ids(store.folder, _RESULT)


def unreadable_results(store: RecordStore) -> list[str]:
    """Return one notice for each finished result that another version left, which this one cannot record."""
    paths = [result_path(store.folder, record_id) for record_id in result_ids(store)]
    return [
        f"{path} holds a finished case in the form of another version of arvbench: run that version once more to "
        "record it, or remove the file"
        for path in paths
        if path.is_file() and finished_result(path) is None
    ]


def clear_features(store: RecordStore) -> None:
    """Remove the features that a stored record is made of, unless another process reads them.

    Features of a case that failed stay: the next attempt goes on with them.
    """
    top = store.folder / FEATURES_FOLDER
    marked = {folder: marks for folder in _folders(top) if (marks := _ids(folder, _MARK))}
    stored = {record.record_id for record in store.records() if record.status is Status.OK} if marked else set()
    with suppress(OSError):  # what cannot be removed costs room, and no result
        for folder, marks in marked.items():
            with locked(hidden(folder, "lock"), wait=False) as free:
                if free and stored & set(marks):
                    # Renamed first: half a folder must not look like features of an unfinished case.
                    remove(folder.rename(own_name(folder)))
        remove_dead_in(top, _TEMPORARY)
        top.rmdir()


def clear_shared(store: RecordStore) -> None:
    """Remove the features that several cases share, unless a process reads them; they can be made again."""
    top = store.folder / FEATURES_FOLDER
    with suppress(OSError):
        for folder in _folders(top):
            if folder.name.startswith(SHARED_PREFIX):
                with locked(hidden(folder, "lock"), wait=False) as free:
                    if free:
                        remove(folder.rename(own_name(folder)))
        top.rmdir()


def _adopt(store: RecordStore, record_id: str) -> None:
    """Make a record of a finished result whose runner was killed, unless it had stored it whole; a half stays."""
    path = result_path(store.folder, record_id)
    left = finished_result(path)
    if left is None or (left.half and not store.holds(record_id)):
        return
    job, environment = left.job, left.result.environment
    # A worker that failed before it described its machine had not measured anything.
    if environment is not None and job.started is not None and not store.holds(record_id):
        store.append(
            Record(
                record_id=record_id,
                suite=job.suite,
                case_id=job.case_id,
                launch=job.launch,
                fingerprint=left.fingerprint,
                started=job.started,
                finished=datetime.fromtimestamp(path.stat().st_mtime, UTC),
                case=job.case,
                environment=environment,
                outcome=left.result.outcome,
            )
        )
    path.unlink(missing_ok=True)


def finished_result(path: Path) -> Finished | None:
    """Return a finished result; None for one that is gone, and for one of another version, which stays for that one."""
    try:
        return Finished.model_validate_json(path.read_bytes())
    except (ValidationError, OSError):
        return None


def _ids(folder: Path, pattern: re.Pattern[str]) -> list[str]:
    """Return what `pattern` finds in the names of a folder's files; nothing of a folder that is missing."""
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError:
        return []
    return [found[1] for name in names if (found := pattern.fullmatch(name))]


def _folders(top: Path) -> list[Path]:
    """Return the folders of features, without those on their way out."""
    try:
        return sorted(e for e in top.iterdir() if not e.name.startswith(".") and e.is_dir() and not e.is_symlink())
    except OSError:
        return []
