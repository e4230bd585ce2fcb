"""Run a session: parts in child processes within their budgets, goals in turns, every row on disk at once.

Units    _s seconds, _ms milliseconds
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from uuid import uuid4

import numpy as np

from arvbench.errors import ArvbenchError
from arvbench.harness.check.launch_tests import ratio_interval
from arvbench.harness.gpu.goals import DRY_GOALS, GOALS, Goal
from arvbench.harness.gpu.parts import PartJob
from arvbench.harness.gpu.plan import PARTS, PartName, deadlines
from arvbench.harness.gpu.rows import Row, Session, Status, read_rows
from arvbench.harness.jobs import Job
from arvbench.harness.machine.processes import running
from arvbench.harness.run.engines.spawn import SpawnEngine
from arvbench.harness.run.runner import measure
from arvbench.harness.run.store import RecordStore
from arvbench.results.schema import CaseConfig, Failed, Measured, Record

_KERNEL_PROCESSES = 5
"""Processes that time the kernels: the spread between processes is larger than within one."""
_DRIFT_IMAGES = 4
"""Images of the first launch of a case in a half precision that are compared with float32. Drift does not depend on the
process, and its second model would take the time of the goals.
"""
_DRIFT = 0.02
"""Change of a ceiling between begin and end beyond which the times of the session are void."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRequest:
    """Limits of a session, and the places of what it reads and writes."""

    folder: Path
    dry: bool
    budget_s: float
    fixtures: Path
    upstream: Path | None = None
    """Folder with checkouts of official repositories, named as in `Goal.upstream`."""


def run_session(request: SessionRequest, say: Callable[[str], None]) -> Session:
    """Run all parts and return the session. No failure ends it; Ctrl-C does, with all rows so far on disk."""
    request.folder.mkdir(parents=True, exist_ok=True)
    begin, ends = time.monotonic(), deadlines(request.budget_s)
    with closing(SpawnEngine()) as engine:
        device = "cpu" if request.dry else "cuda"
        session = Session(started=datetime.now(UTC), dry=request.dry, environment=engine.environment(device))
        session.write(request.folder)
        for part in PARTS:
            part_begin = time.monotonic()
            left = begin + ends[part.name] - part_begin
            rows = _goals(request, engine, left) if part.name == "goals" else _children(request, part.name, left)
            for row in rows:
                say(f"{row.part}: {row.name}: {row.status} {row.note}".rstrip())
                session = session.model_copy(update={"rows": (*session.rows, row)})
                session.write(request.folder)
            seconds = session.seconds | {part.name: time.monotonic() - part_begin}
            session = session.model_copy(update={"seconds": seconds})
            session.write(request.folder)
    for row in tuple(_drifts(session.rows)):
        say(f"{row.part}: {row.name}: {row.status} {row.note}".rstrip())
        session = session.model_copy(update={"rows": (*session.rows, row)})
    session.write(request.folder)
    return session


def _children(request: SessionRequest, part: PartName, left_s: float) -> Iterator[Row]:
    """Yield the rows of a part's child processes as they come; a child is stopped at the end of its time."""
    processes = _KERNEL_PROCESSES if part == "kernels" and not request.dry else 1
    end = time.monotonic() + left_s
    for number in range(1, processes + 1):
        share = (end - time.monotonic()) / (processes - number + 1)
        if share <= 0:
            yield Row(part=part, name=f"process {number}", status="skipped", note="no time was left")
            continue
        rows = request.folder / f".rows-{part.replace(' ', '-')}-{number}.jsonl"
        rows.unlink(missing_ok=True)
        job = PartJob(part=part, dry=request.dry, rows=rows, fixtures=request.fixtures, process=number)
        yield from _child(request, job, share)
        rows.unlink(missing_ok=True)


def _child(request: SessionRequest, job: PartJob, left_s: float) -> Iterator[Row]:
    end, seen = time.monotonic() + left_s, 0
    with (request.folder / "log.txt").open("ab") as log:
        with running("arvbench.harness.gpu.parts", job, output=log) as process:
            ended = False
            while not ended and time.monotonic() < end:
                try:
                    process.wait(timeout=min(1.0, max(0.0, end - time.monotonic())))
                    ended = True
                except subprocess.TimeoutExpired:
                    pass
                found = list(read_rows(Path(job.rows)))
                yield from found[seen:]
                seen = len(found)
        if not ended:
            note = f"stopped after {left_s:.0f} s with {seen} rows"
            yield Row(part=job.part, name=f"process {job.process}", status="timeout", note=note)
        elif process.returncode:
            note = f"exit code {process.returncode} after {seen} rows; see log.txt"
            yield Row(part=job.part, name=f"process {job.process}", status="failed", note=note)


def _goals(request: SessionRequest, engine: SpawnEngine, left_s: float) -> Iterator[Row]:
    """Yield a row per goal, and one more where the official code is at hand."""
    goals = DRY_GOALS if request.dry else GOALS
    store = RecordStore(request.folder / "records")
    store.prepare()
    end = time.monotonic() + left_s
    for number, goal in enumerate(goals):
        share = (end - time.monotonic()) / (len(goals) - number)
        if share <= 1:
            yield Row(part="goals", name=goal.name, status="skipped", note="no time was left")
            continue
        root = request.upstream / goal.upstream if request.upstream and goal.upstream else None
        beside = root is not None and root.is_dir()
        yield _in_turns(goal, store, engine, share / 2 if beside else share, most=1 if request.dry else 50)
        if beside and root is not None:
            yield _beside_official(goal, root, request.folder, share / 2)


def _in_turns(goal: Goal, store: RecordStore, engine: SpawnEngine, left_s: float, *, most: int) -> Row:
    """Measure launches of both cases in turns until the time is over, one of each at least and `most` at most."""
    begin = time.monotonic()
    times: dict[bool, list[float]] = {True: [], False: []}
    launch = 0
    while True:
        launch += 1
        for ours in (True, False) if launch % 2 else (False, True):
            left = max(1.0, left_s - (time.monotonic() - begin))
            update = {"timeout_s": left, "drift_images": _DRIFT_IMAGES if launch == 1 else 0}
            case = (goal.ours if ours else goal.peer).model_copy(update=update)
            record = _measure(case, store, engine, launch)
            if not isinstance(record.outcome, Measured):
                return _without_times(goal, record, ours)
            scope = next(t for t in record.outcome.timings if t.scope == goal.scope)
            times[ours].append(median(scope.samples_ns) / 1e6)
        used = time.monotonic() - begin
        if launch == most or used + used / launch > left_s:
            return _row_of(goal, times[True], times[False])


def _measure(case: CaseConfig, store: RecordStore, engine: SpawnEngine, launch: int) -> Record:
    job = Job(
        record_id=uuid4().hex,
        case=case,
        folder=store.folder,
        suite="gpu",
        case_id=f"{case.model} {case.backend} b{case.batch}",
        launch=launch,
        started=datetime.now(UTC),
    )
    return measure(job, store, engine, lambda _: None)


def _without_times(goal: Goal, record: Record, ours: bool) -> Row:
    outcome = record.outcome
    status: Status = "failed"
    note = "the backend disagrees with its judge"
    if isinstance(outcome, Failed):
        known: dict[str, Status] = {"timeout": "timeout", "unsupported": "unsupported"}
        status, note = known.get(outcome.status.value, "failed"), f"{outcome.status.value}: {outcome.reason}"
    return Row(part="goals", name=goal.name, status=status, note=f"{'ours' if ours else 'peer'}: {note}")


def _row_of(goal: Goal, ours: Sequence[float], peer: Sequence[float]) -> Row:
    ratio = median(peer) / median(ours)
    values = {"ours ms": median(ours), "peer ms": median(peer), "ratio": ratio, "goal": goal.least}
    if (interval := ratio_interval(np.array(ours), np.array(peer))) is not None:
        values |= {"ratio low": interval[0], "ratio high": interval[1]}
    peer_name = ", ".join(f"{key} {value}" for key, value in _differences(goal).items())
    note = f"{len(ours)} launches per side; peer: {peer_name}; {'met' if ratio >= goal.least else 'missed'}"
    return Row(part="goals", name=goal.name, status="ok", values=values, note=note)


def _differences(goal: Goal) -> dict[str, object]:
    ours, peer = goal.ours.model_dump(), goal.peer.model_dump()
    return {key: value for key, value in peer.items() if value != ours[key]}


def _beside_official(goal: Goal, root: Path, folder: Path, left_s: float) -> Row:
    """Compare with the official code: parity, then as many launches as the time allows, two of each at least."""
    from arvbench.harness.versus.trial import VersusRequest, compare_with_official

    name = f"{goal.name}, beside the official code"
    case = goal.ours.model_copy(update={"launches": 2, "timeout_s": max(1.0, left_s / 4)})
    try:
        target = folder / f"versus-{goal.upstream}-{case.model.replace('/', '-')}-b{case.batch}"
        done = compare_with_official(VersusRequest(case=case, root=root), target, lambda _: None)
    except ArvbenchError as error:
        return Row(part="goals", name=name, status="failed", note=str(error))
    if done.status != "ok":
        status: Status = "unsupported" if done.status == "unsupported" else "failed"
        return Row(part="goals", name=name, status=status, note=f"{done.status}: {done.reason}")
    images = next(ratio for ratio in done.ratios if ratio.scope == "images")
    values = {"ours ms": images.ours_ns / 1e6, "peer ms": images.official_ns / 1e6, "ratio": images.ratio}
    note = f"2 launches per side; peer: {done.repository} at {done.commit[:7]}"
    return Row(part="goals", name=name, status="ok", values=values | {"goal": goal.least}, note=note)


def _drifts(rows: Sequence[Row]) -> Iterator[Row]:
    """Yield a row per ceiling: whether the machine was at the end what it was at the beginning."""
    before = {row.name: row.values for row in rows if row.part == "ceilings before" and row.status == "ok"}
    for row in rows:
        if row.part != "ceilings after" or row.name not in before:
            continue
        (now,), (then,) = row.values.values(), before[row.name].values()
        drift = now / then - 1
        void = abs(drift) > _DRIFT
        note = "the machine moved: the times of this session are void" if void else ""
        yield Row(part="drift", name=row.name, status="failed" if void else "ok", values={"change": drift}, note=note)
