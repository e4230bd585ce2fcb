"""Runs the cases of a suite one after another. No finished case is lost, and none is measured again."""

from __future__ import annotations

import contextlib
import signal
import threading
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from arvbench.harness.jobs import Event, EventListener, Job, Result, result_path
from arvbench.harness.run.engines.engine import Engine
from arvbench.harness.run.fingerprint import fingerprint
from arvbench.harness.run.leftovers import clear_features, owned, recover, turn
from arvbench.harness.run.store import RecordStore
from arvbench.harness.suites.suite import Case, Suite
from arvbench.results.schema import Environment, Record, Status


class RunListener(Protocol):
    """Receives the events of a run, for the user interface."""

    def case_reused(self, case: Case, record: Record) -> None: ...
    def case_started(self, case: Case) -> None: ...
    def case_event(self, case: Case, event: Event) -> None: ...
    def case_finished(self, case: Case, record: Record) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Treatment of recorded cases, and files that the user named."""

    fresh: bool = False
    """Measure every case again; older records stay."""
    retry_failed: bool = False
    """Measure a case again when its last record is not ok."""
    extractor_files: Mapping[str, Path] = field(default_factory=dict)
    """Extractor weights given by the user: name in the table of weights -> file."""
    control: bool = False
    """Time the control probe in every case (harness/measure/control.py)."""


def run_suite(
    suite: Suite,
    store: RecordStore,
    engine: Engine,
    listener: RunListener,
    *,
    options: RunOptions | None = None,
) -> list[Record]:
    """Measure the cases of `suite` in order and return one record per launch, reused ones included.

    On KeyboardInterrupt everything finished is already in the store.
    """
    with contextlib.closing(engine):
        return _run_cases(suite, store, engine, listener, options or RunOptions())


def _run_cases(
    suite: Suite, store: RecordStore, engine: Engine, listener: RunListener, options: RunOptions
) -> list[Record]:
    recover(store)
    recorded = {record.fingerprint: record for record in store.records()}
    records = []
    for case in suite.cases:
        environment = engine.environment(case.config.device)
        identity = fingerprint(case.config, environment, options.extractor_files, launch=case.launch)
        if (record := _reusable(recorded, identity, options)) is not None:
            listener.case_reused(case, record)
            records.append(record)
            continue
        with turn(store, identity):
            before, recorded = recorded, {record.fingerprint: record for record in store.records()}
            record = _reusable(recorded, identity, options)
            if record is not None and record != before.get(identity):
                listener.case_reused(case, record)  # by a run beside this one
            else:
                listener.case_started(case)
                record = _measure(suite.name, case, store, engine, listener, options)
                listener.case_finished(case, record)
        recorded[record.fingerprint] = record
        records.append(record)
    return records


def _reusable(recorded: Mapping[str, Record], identity: str, options: RunOptions) -> Record | None:
    """Return the record of a measurement that need not be made again."""
    old = recorded.get(identity)
    again = options.fresh or (options.retry_failed and old is not None and old.status is not Status.OK)
    return None if again else old


def _measure(
    suite: str, case: Case, store: RecordStore, engine: Engine, listener: RunListener, options: RunOptions
) -> Record:
    job = Job(
        record_id=uuid.uuid4().hex,
        case=case.config,
        folder=store.folder,
        extractor_files=dict(options.extractor_files),
        suite=suite,
        case_id=case.case_id,
        launch=case.launch,
        started=datetime.now(UTC),
        control=options.control,
    )
    return measure(job, store, engine, lambda event: listener.case_event(case, event))


def measure(job: Job, store: RecordStore, engine: Engine, listener: EventListener) -> Record:
    """Have one job measured, and put its record on disk before anything else happens. The job states its start."""
    with owned(store, job.record_id):
        result = engine.run(job, listener)
        with _interrupt_deferred():
            # The worker's description counts: it was taken while the machine was busy, and when the source was edited
            # during the run, the worker knows what it imported.
            environment = result.environment or engine.environment(job.case.device)
            record = _record(job, result, environment)
            store.append(record)
            with contextlib.suppress(OSError):  # the next run finds its record, and removes it
                result_path(store.folder, job.record_id).unlink(missing_ok=True)
    clear_features(store)
    return record


def _record(job: Job, result: Result, environment: Environment) -> Record:
    assert job.started is not None
    return Record(
        record_id=job.record_id,
        suite=job.suite,
        case_id=job.case_id,
        launch=job.launch,
        fingerprint=fingerprint(job.case, environment, job.extractor_files, launch=job.launch),
        started=job.started,
        finished=datetime.now(UTC),
        case=job.case,
        environment=environment,
        outcome=result.outcome,
    )


@contextlib.contextmanager
def _interrupt_deferred() -> Iterator[None]:
    """Hold Ctrl-C back until the block is done, so that a finished case is not lost while it is written."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pending: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: pending.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pending:
        _deliver(before)


def _deliver(handler: Any) -> None:
    """Handle a deferred Ctrl-C as the handler would have."""
    if callable(handler):
        handler(signal.SIGINT, None)
