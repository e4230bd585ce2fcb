"""Base and head measured in turns in one job, each launch in a process of its own.

Order    base head, head base, base head, ...: a machine that drifts slows both sides alike
Stages   a few launches of every case say which are suspected, and fresh launches of these are judged (decide.py)

Folder of a check
  check.json             the run: its id, and what it compares
  base/records.jsonl     a record per launch, as `arvbench run` writes them; the id of a record begins with the id of
  head/records.jsonl     its run, and those of earlier runs stay
  verdict.json           written last: a run without it goes on, one with it is over
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from arvbench.disk import cannot_write
from arvbench.errors import UserError
from arvbench.files import locked, write_whole
from arvbench.harness.check.sides import BuiltSide
from arvbench.harness.jobs import Event, EventListener, Job
from arvbench.harness.run.engines.engine import Engine
from arvbench.harness.run.leftovers import clear_shared, recover
from arvbench.harness.run.runner import measure
from arvbench.harness.run.store import RecordStore
from arvbench.harness.suites.suite import Case
from arvbench.paths import printable, regular_file
from arvbench.results.moments import Moment
from arvbench.results.schema import CaseConfig, Failed, Record
from arvbench.results.verdict import VERDICT_NAME, Side, Verdict, read_verdict

RUN_NAME = "check.json"
SideName = Literal["base", "head"]
_MOST_BYTES = 2**28
"""Of check.json and verdict.json."""
SIDES: Final[tuple[SideName, SideName]] = ("base", "head")


class CheckRun(BaseModel):
    """One run of a check, from its first launch to its verdict."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str = Field(pattern=r"^[0-9a-f]{16}$")
    """Beginning of the ids of its records, which are names of files too."""
    started: Moment
    suite: str
    identity: dict[str, str]
    """All that its launches have in common, by name; a run goes on only where all of it is as before."""
    base: Side
    head: Side
    looks: tuple[int, ...] = ()
    """Launches per side that each look after the first one adds."""

    def record_id(self, side: SideName, case: Case, launch: int) -> str:
        """Return the id of a launch's record: 16 digits of the run, 16 of the launch."""
        place = json.dumps([side, case.case_id, launch])
        return self.run_id + hashlib.sha256(place.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One of the two sides while it is measured."""

    name: SideName
    built: BuiltSide
    store: RecordStore
    engine: Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Launches to measure, by their numbers, of some cases on both sides."""

    name: str
    cases: Sequence[Case]
    launches: range
    seeded: Collection[str] = ()
    """Names of the cases whose quality is measured, where they ask for it."""
    seeds: int = 1
    """Launches that measure it, the first ones, each with a run seed of its own."""

    def config(self, case: Case, launch: int) -> CaseConfig:
        """Return the measurement of one launch."""
        quality = case.config.quality
        if quality is not None:
            asked = case.case_id in self.seeded and launch - self.launches.start < self.seeds
            quality = quality.model_copy(update={"seed": quality.seed + launch - 1}) if asked else None
        return case.config.model_copy(update={"quality": quality, "sample_sheet": 0})


@contextlib.contextmanager
def check_folder(folder: Path) -> Iterator[dict[SideName, RecordStore]]:
    """Hold the folder of a check, and yield the two stores in it.

    Raises UserError for a folder that cannot be written and for one that another check holds.
    """
    stores = {side: RecordStore(folder / side) for side in SIDES}
    for store in stores.values():
        store.prepare()
    with contextlib.ExitStack() as stack:
        try:
            mine = stack.enter_context(locked(folder / ".check.lock", wait=False))
        except OSError as error:
            raise cannot_write(folder, error) from error
        if not mine:
            raise UserError(f"another check runs in {folder}; wait for it, or choose another folder with --out")
        for store in stores.values():
            stack.callback(clear_shared, store)
            recover(store)
        yield stores


def open_run(folder: Path, wanted: CheckRun) -> tuple[CheckRun, str]:
    """Return the unfinished run of a folder where it is the wanted one, else that, written down; and what was found.

    The notice is "" for a folder without an earlier run. A finished run is over: its records stay and count no more.
    """
    notice = ""
    if (old := _unfinished(folder)) is not None:
        other = _other(old, wanted)
        if not other:
            return old, f"going on with run {old.run_id}, which was interrupted"
        notice = f"the unfinished run {old.run_id} had another {other}: this one starts anew"
    write_run(folder, wanted)
    return wanted, notice


def open_finished(folder: Path, wanted: CheckRun, more: int) -> tuple[CheckRun, str]:
    """Return the finished, inconclusive run of a folder with one more look of `more` launches; and what was found.

    A look that was interrupted goes on. Raises UserError where there is no such run, or where it is decided or is not
    the wanted one.
    """
    run = _read_run(folder)
    if run is None:
        raise UserError(f"{printable(folder)} holds no check to continue; make it without --more first")
    if other := _other(run, wanted):
        raise UserError(f"the check in {printable(folder)} had another {other}: make a new one, without --more")
    if _unfinished(folder) is None:
        verdict = read_verdict(folder / VERDICT_NAME).verdict
        if verdict is not Verdict.INCONCLUSIVE:
            raise UserError(f"the check in {printable(folder)} is decided ({verdict.value}): no look at it is left")
        return run.model_copy(update={"looks": (*run.looks, more)}), ""
    if not run.looks:
        raise UserError(f"the check in {printable(folder)} is not finished: run the same command without --more first")
    if run.looks[-1] != more:
        raise UserError(f"the last look of {printable(folder)} is not finished: go on with --more {run.looks[-1]}")
    return run, f"going on with look {1 + len(run.looks)} of run {run.run_id}, which was interrupted"


def write_run(folder: Path, run: CheckRun) -> None:
    """Write a run down, so that it goes on after a kill. Raises UserError for a folder that cannot be written."""
    try:
        write_whole(folder / RUN_NAME, run.model_dump_json(indent=2))
    except OSError as error:
        raise cannot_write(folder / RUN_NAME, error) from error


def new_run(suite: str, identity: Mapping[str, str], base: BuiltSide, head: BuiltSide) -> CheckRun:
    """Return a run that begins now."""
    identity = {
        "suite": suite,
        "source of base": base.side.source_sha256 or "",
        "source of head": head.side.source_sha256 or "",
    } | dict(identity)
    return CheckRun(
        run_id=secrets.token_hex(8),
        started=datetime.now(UTC),
        suite=suite,
        identity=identity,
        base=base.side,
        head=head.side,
    )


def _other(run: CheckRun, wanted: CheckRun) -> str:
    """Return what two runs do not have in common, for a message; "" when they are of the same things."""
    other = [name for name, value in wanted.identity.items() if run.identity.get(name) != value]
    if not other and run.identity.keys() != wanted.identity.keys():
        return "form"
    return " and ".join(other)


def _read_run(folder: Path) -> CheckRun | None:
    """Return the run of a folder; None where there is none, or where its file is damaged.

    Raises UserError for a pipe or the like in the place of one of the two files.
    """
    for name in (RUN_NAME, VERDICT_NAME):
        if (folder / name).exists():
            regular_file(folder / name, most_bytes=_MOST_BYTES)
    try:
        return CheckRun.model_validate_json((folder / RUN_NAME).read_bytes())
    except (OSError, ValidationError):
        return None


def _unfinished(folder: Path) -> CheckRun | None:
    """Return the run of a folder where its last look has no verdict yet."""
    run = _read_run(folder)
    if run is None:
        return None
    try:
        verdict = json.loads((folder / VERDICT_NAME).read_bytes())
        finished = verdict["run_id"] == run.run_id and len(verdict.get("looks", ())) in (0, 1 + len(run.looks))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        finished = False
    return None if finished else run


class Interleaved:
    """Measures launches of one side, or of both in turns. What the run has measured is not measured again."""

    def __init__(self, run: CheckRun, lanes: Sequence[Lane], listener: EventListener) -> None:
        self._run, self._lanes, self._listener = run, tuple(lanes), listener
        known = {record.record_id: record for lane in self._lanes for record in lane.store.records()}
        self._known = {name: record for name, record in known.items() if name.startswith(run.run_id)}
        self._failures: dict[tuple[SideName, str], list[str]] = {}
        """(side, what happened) -> names of the cases that failed so."""

    def measure(self, stage: Stage) -> None:
        """Measure the launches of a stage. After a failed launch, its case has no further ones."""
        places = list(self._places(stage))
        for done, (lane, case, launch) in enumerate(places):
            if case.case_id in self.failed:
                continue
            note = f"{case.case_id}, {lane.name}, launch {launch}"
            self._listener(Event(phase=stage.name, note=note, done=done, total=len(places)))
            record = self._known.get(self._run.record_id(lane.name, case, launch))
            if record is None:
                job = self._job(lane, case, launch, stage.config(case, launch))
                record = measure(job, lane.store, lane.engine, lambda event: None)
                self._known[record.record_id] = record
            if isinstance(record.outcome, Failed):
                what = f"{record.outcome.status}: {record.outcome.reason}"
                self._failures.setdefault((lane.name, what), []).append(case.case_id)

    @property
    def failed(self) -> set[str]:
        """Return the names of the cases that have no numbers."""
        return {case for cases in self._failures.values() for case in cases}

    @property
    def failures(self) -> tuple[str, ...]:
        """Return why cases have no numbers, a sentence for all that failed alike.

        It names both sides: the usual reason is code of base that does not fit head's harness.
        """
        built = {lane.name: lane.built for lane in self._lanes}
        sentences = []
        for (side, what), cases in self._failures.items():
            more = f" and {len(cases) - 1} more" if len(cases) > 1 else ""
            under = f" under the harness of head, {built['head']}" if side == "base" else ""
            sentences.append(f"{side}, {built[side]}, has no numbers for {cases[0]}{more}{under}: {what}")
        return tuple(sentences)

    def records(self, side: SideName, stage: Stage) -> list[Record]:
        """Return the records of a stage that exist, in the order of the cases, then of the launches."""
        ids = [self._run.record_id(side, case, launch) for case in stage.cases for launch in stage.launches]
        return [self._known[name] for name in ids if name in self._known]

    def _places(self, stage: Stage) -> Iterator[tuple[Lane, Case, int]]:
        for launch in stage.launches:
            for case in stage.cases:
                for lane in self._lanes if launch % 2 else reversed(self._lanes):
                    yield lane, case, launch

    def _job(self, lane: Lane, case: Case, launch: int, config: CaseConfig) -> Job:
        return Job(
            record_id=self._run.record_id(lane.name, case, launch),
            case=config,
            folder=lane.store.folder,
            suite=self._run.suite,
            case_id=case.case_id,
            launch=launch,
            started=datetime.now(UTC),
            control=True,
            lock_clocks=True,
        )
