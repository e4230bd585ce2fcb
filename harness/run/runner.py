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
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Protocol

from arvbench.errors import HostError
from arvbench.harness.jobs import Event, EventListener, Finished, Job, Part, Result, has_second_part, result_path
from arvbench.harness.run.crew import Crew
from arvbench.harness.run.engines.engine import Engine
from arvbench.harness.run.fingerprint import fingerprint
from arvbench.harness.run.halves import Halves
from arvbench.harness.run.leftovers import clear_features, clear_shared, living, owned, recover, turn
from arvbench.harness.run.store import RecordStore
from arvbench.harness.suites.searches import next_tries
from arvbench.harness.suites.suite import Case, Suite
from arvbench.results.schema import Measured, Record, Status


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
    retries: int = 0
    """Further attempts after a worker or its machine was lost from outside; the record of every attempt stays."""


def run_suite(
    suite: Suite,
    store: RecordStore,
    engine: Engine,
    listener: RunListener,
    *,
    options: RunOptions | None = None,
) -> list[Record]:
    """Measure the cases of `suite` and return one record per case, in their order, reused ones included.

    A search has one per try, each begun when the one before it is recorded.

    A case is recorded once its quality is there, or has failed. On KeyboardInterrupt every finished case is in the
    store, and every finished speed is in the run folder, for the next run.
    """
    with contextlib.closing(engine):
        recover(store)
        with living(store) as run:
            return _Run(run, suite, store, engine, listener, options or RunOptions()).records()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """A case to be measured, or its second part."""

    place: tuple[int, int]
    """Place of the case in the suite; behind it, that of the try among those of its search."""
    case: Case
    identity: str
    """Fingerprint of the case before it was measured."""
    half: Finished | None = None
    """The first part, for the second."""
    attempt: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Running:
    """A task that runs, its job, and the locks that it holds."""

    task: _Task
    job: Job
    locks: contextlib.ExitStack
    begin: float


class _Run:
    """One run over a suite: first the speed of all cases, then their quality, as many side by side as there is room."""

    def __init__(
        self, run: str, suite: Suite, store: RecordStore, engine: Engine, listener: RunListener, options: RunOptions
    ) -> None:
        self._run, self._suite, self._store, self._engine = run, suite, store, engine
        self._listener, self._options, self._halves = listener, options, Halves(store)
        self._recorded: dict[str, Record] = {}
        """Fingerprint -> latest record."""
        self._read: list[Record] = []
        """Records of the store, as they were read last."""
        self._records: dict[tuple[int, int], Record] = {}
        """Place in the suite -> record."""
        self._attempts: set[str] = set()
        """Ids of the records of attempts that are made again."""
        self._seconds: list[_Task] = []
        """Second parts of the cases whose speed is known."""

    def records(self) -> list[Record]:
        """Return one record per case, in order."""
        self._read_records()
        self._halves.clear(self._is_stale)
        plain = [(place, case) for place, case in enumerate(self._suite.cases) if case.config.search is None]
        waiting = _in_rounds([self._first((place, 0), case) for place, case in plain] + self._next_tries())
        while waiting:
            self._measure(waiting)
            # The longest first, so that none is left to run alone at the end.
            seconds, self._seconds = sorted(self._seconds, key=lambda task: (-_sampling_ns(task), task.place)), []
            self._measure(seconds)
            waiting = _in_rounds(self._next_tries())
        clear_shared(self._store)
        return [self._records[place] for place in sorted(self._records)]

    def _next_tries(self) -> list[_Task]:
        """Return the launches of the next try of every search."""
        tasks = []
        for place, case in enumerate(self._suite.cases):
            if case.config.search is None:
                continue
            found = [self._records[known] for known in sorted(self._records) if known[0] == place]
            tries = next_tries(case, found)
            tasks += [self._first((place, len(found) + count), one) for count, one in enumerate(tries)]
        return tasks

    def _first(self, place: tuple[int, int], case: Case) -> _Task:
        environment, files = self._engine.environment(case.config.device), self._options.extractor_files
        return _Task(place=place, case=case, identity=fingerprint(case.config, environment, files, launch=case.launch))

    def _measure(self, waiting: list[_Task]) -> None:
        """Measure cases, or their second parts, as many side by side as the engine has room for."""
        running: dict[str, _Running] = {}
        with contextlib.ExitStack() as at_end, Crew(self._engine) as crew:

            def begin(task: _Task, *, wait: bool) -> bool:
                locks = self._taken(task, wait=wait)
                if locks is None:
                    return False
                at_end.push(locks)
                job = self._begun(task)
                if job is None:
                    locks.close()
                    return True
                locks.enter_context(owned(self._store, job.record_id, wait=True))
                running[job.record_id] = _Running(task=task, job=job, locks=locks, begin=time.monotonic())
                self._listener.case_started(task.case, job.part if task.half else Part.SPEED)
                crew.start(job)
                return True

            def try_to_begin(task: _Task) -> bool:
                others = [other.job for other in running.values()]
                if others and not self._engine.room(_with_part(task), others):
                    return False
                # Who holds nothing may wait for another run: two of them measure no speed at once.
                return begin(task, wait=task.half is None and not others)

            while waiting or running:
                waiting = [task for task in waiting if not try_to_begin(task)]
                if running:
                    waiting += self._hear(crew, running)
                elif waiting:  # other runs are at all of them
                    begin(waiting.pop(0), wait=True)

    def _taken(self, task: _Task, *, wait: bool) -> contextlib.ExitStack | None:
        """Take a task on; None when another run is at it.

        Nobody waits who holds another case: two runs could wait for each other.
        """
        with contextlib.ExitStack() as locks:
            return locks.pop_all() if locks.enter_context(turn(self._store, task.identity, wait=wait)) else None

    def _begun(self, task: _Task) -> Job | None:
        """Return the job of a task; None when it is done already: by this run or an earlier one, or one beside it."""
        if task.half is not None:
            self._read_records()
            if self._reused(task):
                self._halves.drop(task.half)
                return None
            return _second_job(task.half)
        self._read_records()
        if self._reused(task):
            return None
        if (half := self._kept_half(task.case, task.identity)) is not None:
            self._seconds.append(replace(task, half=half))
            return None
        return self._job(task.case)

    def _kept_half(self, case: Case, identity: str) -> Finished | None:
        """Return the speed that an interrupted run left, as one of this run's own."""
        left = None if self._options.fresh else self._halves.find(identity)
        if left is not None:
            job = self._job(case).model_copy(update={"started": left.job.started})
            self._halves.keep(kept := left.model_copy(update={"job": job}))
            self._listener.case_half_finished(case, left.seconds, reused=True)
        self._halves.forget(identity)
        return None if left is None else kept

    def _hear(self, crew: Crew, running: dict[str, _Running]) -> list[_Task]:
        """Wait for the next word from a worker: pass an event on, settle a result. Return the task to do again."""
        record_id, said = crew.hear()
        at = running[record_id]
        if isinstance(said, Event):
            self._listener.case_event(at.task.case, said)
            return []
        del running[record_id]
        with at.locks:
            if said.lost and at.task.attempt <= self._options.retries:
                # The record of the failure has an id of its own: what the job has left stays for the next attempt.
                failed = at.job.model_copy(update={"record_id": uuid.uuid4().hex})
                self._attempts.add(_recorded(failed, said, self._store, self._engine).record_id)
                return [replace(at.task, attempt=at.task.attempt + 1)]
            self._settle(at, said)
        return []

    def _settle(self, at: _Running, result: Result) -> None:
        """Record the result of a case, or keep the first part of one that has more."""
        task, seconds = at.task, time.monotonic() - at.begin
        half = Finished(job=at.job, result=result, seconds=seconds)
        if task.half is not None:
            described = result.environment or task.half.result.environment
            self._record(task, at.job, result.model_copy(update={"environment": described}))
        elif not half.half:
            self._record(task, at.job, result)
        else:
            environment = result.environment or self._engine.environment(task.case.config.device)
            files = at.job.extractor_files
            identity = fingerprint(task.case.config, environment, files, launch=task.case.launch)
            self._halves.keep(half := half.model_copy(update={"fingerprint": identity}))
            self._listener.case_half_finished(task.case, seconds, reused=False)
            self._seconds.append(_Task(place=task.place, case=task.case, identity=task.identity, half=half))

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

    def _reused(self, task: _Task) -> bool:
        """Take the record of a measurement that need not be made again, and forget its half."""
        old = self._recorded.get(task.identity)
        if old is None or self._options.fresh or old.record_id in self._attempts:
            return False
        if self._options.retry_failed and old.status is not Status.OK:
            return False
        self._halves.forget(task.identity)
        self._records[task.place] = old
        self._listener.case_reused(task.case, old)
        return True

    def _record(self, task: _Task, job: Job, result: Result) -> None:
        record = _recorded(job, result, self._store, self._engine)
        self._recorded[record.fingerprint] = self._records[task.place] = record
        self._listener.case_finished(task.case, record)

    def _read_records(self) -> None:
        """Take note of the records that came since the last time; of all where the file is another one by now."""
        found, known = self._store.records(), len(self._read)
        grown = known > 0 and len(found) >= known and found[known - 1] is self._read[-1]
        if not grown:
            self._recorded.clear()
        self._recorded |= {record.fingerprint: record for record in (found[known:] if grown else found)}
        self._read = found

    def _is_stale(self, half: Finished) -> bool:
        """Return whether a half can no longer become a record, or has become one."""
        record, job = self._recorded.get(half.fingerprint), half.job
        if record is not None and job.started is not None and record.finished >= job.started:
            return True
        with contextlib.suppress(HostError):  # a device that is missing just now
            environment = self._engine.environment(job.case.device)
            return fingerprint(job.case, environment, job.extractor_files, launch=job.launch) != half.fingerprint
        return False


def _in_rounds(tasks: list[_Task]) -> list[_Task]:
    """Return the first launches of all cases before the second ones."""
    return sorted(tasks, key=lambda task: (task.case.launch, task.place))


def _with_part(task: _Task) -> Job:
    """Return a job with the case and the part of a task, to ask for room; it is never run."""
    part = Part.QUALITY if task.half else Part.SPEED
    return Job(record_id="", case=task.case.config, folder=Path(), part=part)


def _sampling_ns(task: _Task) -> float:
    """Return how long the images of a case's quality take, by the times of its first part."""
    case, outcome = task.case.config, task.half.result.outcome if task.half else None
    if case.quality is None or not isinstance(outcome, Measured):
        return 0.0
    call_ns = next((median(timing.samples_ns) for timing in outcome.timings if timing.scope == "images"), 0)
    return call_ns * case.quality.images / case.batch


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
