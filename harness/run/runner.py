"""Runs the cases of a suite: the speed of all, one after another, then their quality, as many at a time as fit.

No finished case is lost, no finished speed either, and none is measured again.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from arvbench.errors import HostError
from arvbench.harness.jobs import Event, EventListener, Finished, Job, Part, Result, has_second_part, result_path
from arvbench.harness.run.crew import Crew, cores_taken
from arvbench.harness.run.engines.engine import Engine
from arvbench.harness.run.fingerprint import fingerprint
from arvbench.harness.run.halves import Halves
from arvbench.harness.run.leftovers import clear_features, clear_shared, living, owned, recover, turn
from arvbench.harness.run.store import RecordStore
from arvbench.harness.suites.suite import Case, Suite
from arvbench.results.schema import Record, Status


class RunListener(Protocol):
    """Receives the events of a run, for the user interface; all of them in the thread of the run."""

    def case_reused(self, case: Case, record: Record) -> None: ...
    def case_started(self, case: Case, part: Part) -> None: ...
    def case_event(self, case: Case, event: Event) -> None: ...
    def case_half_finished(self, case: Case, seconds: float, *, reused: bool) -> None:
        """The speed of a case is measured, which took `seconds`, by this run or an earlier one; its quality follows."""

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
    """Measure the cases of `suite` and return one record per case, in their order, reused ones included.

    A case is recorded once its quality is there, or has failed. On KeyboardInterrupt every finished case is in the
    store, and every finished speed is in the run folder, for the next run.
    """
    with contextlib.closing(engine):
        recover(store)
        with living(store) as run:
            return _Run(run, suite, store, engine, listener, options or RunOptions()).records()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Second:
    """The second part of a case, to be measured."""

    place: int
    """Place of the case in the suite."""
    case: Case
    identity: str
    """Fingerprint of the case before it was measured."""
    half: Finished
    job: Job


_Running = dict[str, tuple[_Second, contextlib.ExitStack]]
"""Record id -> second part that runs, and its locks."""


class _Run:
    """One run over a suite: first the speed of all cases, one after another, then their quality, side by side."""

    def __init__(
        self, run: str, suite: Suite, store: RecordStore, engine: Engine, listener: RunListener, options: RunOptions
    ) -> None:
        self._run, self._suite, self._store, self._engine = run, suite, store, engine
        self._listener, self._options, self._halves = listener, options, Halves(store)
        self._recorded: dict[str, Record] = {}
        """Fingerprint -> latest record."""
        self._records: dict[int, Record] = {}
        """Place in the suite -> record."""

    def records(self) -> list[Record]:
        """Return one record per case, in order."""
        self._read_records()
        self._halves.clear(self._is_stale)
        left = [self._measure_first(place, case) for place, case in enumerate(self._suite.cases)]
        self._measure_rest([second for second in left if second is not None])
        clear_shared(self._store)
        return [self._records[place] for place in range(len(self._suite.cases))]

    def _measure_first(self, place: int, case: Case) -> _Second | None:
        """Reuse or measure a case, or the speed of one that has more; return the part that is left."""
        environment, files = self._engine.environment(case.config.device), self._options.extractor_files
        identity = fingerprint(case.config, environment, files, launch=case.launch)
        if self._reused(place, case, identity):
            return None
        with turn(self._store, identity):
            self._read_records()  # a run beside this one may have measured it while we waited
            if self._reused(place, case, identity):
                return None
            half = self._kept_half(case, identity) or self._measured_half(place, case)
        if half is None:
            return None
        return _Second(place=place, case=case, identity=identity, half=half, job=_second_job(half))

    def _measured_half(self, place: int, case: Case) -> Finished | None:
        """Measure the speed of a case; None when that was all of it, which is recorded then."""
        self._listener.case_started(case, Part.SPEED)
        job, begin = self._job(case), time.monotonic()
        with owned(self._store, job.record_id):
            result = self._engine.run(job, lambda event: self._listener.case_event(case, event))
            seconds = time.monotonic() - begin
            half = Finished(job=job, result=result, seconds=seconds)
            if not half.half:
                self._record(place, case, job, result)
                return None
            environment = result.environment or self._engine.environment(case.config.device)
            identity = fingerprint(case.config, environment, job.extractor_files, launch=case.launch)
            self._halves.keep(half := half.model_copy(update={"fingerprint": identity}))
        self._listener.case_half_finished(case, seconds, reused=False)
        return half

    def _kept_half(self, case: Case, identity: str) -> Finished | None:
        """Return the speed that an interrupted run left, as one of this run's own."""
        left = None if self._options.fresh else self._halves.find(identity)
        if left is not None:
            job = self._job(case).model_copy(update={"started": left.job.started})
            self._halves.keep(kept := left.model_copy(update={"job": job}))
            self._listener.case_half_finished(case, left.seconds, reused=True)
        self._halves.forget(identity)
        return None if left is None else kept

    def _measure_rest(self, waiting: list[_Second]) -> None:
        """Measure the second parts, as many side by side as the cores allow."""
        running: _Running = {}
        with contextlib.ExitStack() as at_end, Crew(self._engine) as crew:

            def begin(second: _Second, *, wait: bool = False) -> bool:
                locks = self._taken(second, wait=wait)
                if locks is None:
                    return False
                at_end.push(locks)
                if self._made_beside(second):
                    locks.close()
                else:
                    running[second.job.record_id] = second, locks
                    self._listener.case_started(second.case, Part.QUALITY)
                    crew.start(second.job)
                return True

            while waiting or running:
                waiting = [second for second in waiting if not (self._fits(second, running) and begin(second))]
                if running:
                    self._hear(crew, running)
                elif waiting:  # other runs are at all of them
                    begin(waiting.pop(0), wait=True)

    def _fits(self, second: _Second, running: _Running) -> bool:
        """Return whether the machine has cores for one more; always for the first."""
        cores = self._engine.environment(second.case.config.device).cores
        others = sum(cores_taken(other.case.config, cores) for other, _ in running.values())
        return not others or others + cores_taken(second.case.config, cores) <= cores

    def _taken(self, second: _Second, *, wait: bool) -> contextlib.ExitStack | None:
        """Take a second part on; None when another run is at it.

        Nobody waits who holds another case: two runs could wait for each other.
        """
        with contextlib.ExitStack() as locks:
            if not locks.enter_context(turn(self._store, second.identity, wait=wait)):
                return None
            locks.enter_context(owned(self._store, second.job.record_id, wait=True))
            return locks.pop_all()

    def _made_beside(self, second: _Second) -> bool:
        """Reuse the record that a run beside this one has made of the whole case; False when there is none."""
        self._read_records()
        reused = self._reused(second.place, second.case, second.identity)
        if reused:
            self._halves.drop(second.half)
        return reused

    def _hear(self, crew: Crew, running: _Running) -> None:
        """Wait for the next word from a worker: pass an event on, record a result."""
        record_id, said = crew.hear()
        second, locks = running[record_id]
        if isinstance(said, Event):
            self._listener.case_event(second.case, said)
            return
        del running[record_id]
        with locks:
            described = said.environment or second.half.result.environment
            self._record(second.place, second.case, second.job, said.model_copy(update={"environment": described}))

    def _job(self, case: Case) -> Job:
        return Job(
            record_id=uuid.uuid4().hex,
            case=case.config,
            folder=self._store.folder,
            extractor_files=dict(self._options.extractor_files),
            suite=self._suite.name,
            case_id=case.case_id,
            launch=case.launch,
            started=datetime.now(UTC),
            control=self._options.control,
            run=self._run,
            part=Part.SPEED if has_second_part(case.config) else Part.WHOLE,
        )

    def _reused(self, place: int, case: Case, identity: str) -> bool:
        """Take the record of a measurement that need not be made again, and forget its half."""
        old = self._recorded.get(identity)
        if old is None or self._options.fresh or (self._options.retry_failed and old.status is not Status.OK):
            return False
        self._halves.forget(identity)
        self._records[place] = old
        self._listener.case_reused(case, old)
        return True

    def _record(self, place: int, case: Case, job: Job, result: Result) -> None:
        record = _recorded(job, result, self._store, self._engine)
        self._recorded[record.fingerprint] = self._records[place] = record
        self._listener.case_finished(case, record)

    def _read_records(self) -> None:
        self._recorded = {record.fingerprint: record for record in self._store.records()}

    def _is_stale(self, half: Finished) -> bool:
        """Return whether a half can no longer become a record, or has become one."""
        record, job = self._recorded.get(half.fingerprint), half.job
        if record is not None and job.started is not None and record.finished >= job.started:
            return True
        with contextlib.suppress(HostError):  # a device that is missing just now
            environment = self._engine.environment(job.case.device)
            return fingerprint(job.case, environment, job.extractor_files, launch=job.launch) != half.fingerprint
        return False


def _second_job(half: Finished) -> Job:
    return half.job.model_copy(update={"part": Part.QUALITY, "speed": half.result, "spent_s": half.seconds})


def measure(job: Job, store: RecordStore, engine: Engine, listener: EventListener) -> Record:
    """Have one whole case measured, and put its record on disk. The job states its start."""
    with owned(store, job.record_id):
        return _recorded(job, engine.run(job, listener), store, engine)


def _recorded(job: Job, result: Result, store: RecordStore, engine: Engine) -> Record:
    """Put the record of a finished case on disk before anything else happens, and return it."""
    assert job.started is not None
    with _interrupt_deferred():
        # The worker's description counts: it was taken while the machine was busy, and when the source was edited
        # during the run, the worker knows what it imported.
        environment = result.environment or engine.environment(job.case.device)
        record = Record(
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
        store.append(record)
        with contextlib.suppress(OSError):  # the next run finds its record, and removes it
            result_path(store.folder, job.record_id).unlink(missing_ok=True)
    clear_features(store)
    return record


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
