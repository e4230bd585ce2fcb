"""Launches of the running program alone: for a calibration, and for head where base is a stored baseline.

They are measured as in a check, each in a process of its own, with its control. A run that was interrupted goes on;
one that is over counts no more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from arvbench.errors import UnusableError
from arvbench.harness.check.against import cases_of, identity_of
from arvbench.harness.check.engine import side_engines
from arvbench.harness.check.interleave import (
    RUN_NAME,
    CheckRun,
    Interleaved,
    Lane,
    Stage,
    check_folder,
    new_run,
    open_run,
)
from arvbench.harness.check.rule import Rule
from arvbench.harness.check.sides import WORKING_TREE, BuiltSide
from arvbench.harness.jobs import EventListener
from arvbench.harness.machine.processes import this_python
from arvbench.harness.run.engines.spawn import SpawnEngine
from arvbench.harness.run.ready import check_host
from arvbench.harness.suites.suite import Suite
from arvbench.results.comparison import hardware_class
from arvbench.results.schema import Record
from arvbench.results.verdict import Side


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchRequest:
    """Request of launches of every case of a suite."""

    suite: Suite
    launches: int
    folder: Path
    rule: Rule = field(default_factory=Rule)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnLaunches:
    """Launches that were measured."""

    run: CheckRun
    records: tuple[Record, ...]
    """In the order of the cases, then of the launches."""
    failures: tuple[str, ...]
    """Reasons why cases have no numbers, one sentence each; none when all launches went well."""
    hardware: str


def hardware_of(suite: Suite) -> str:
    """Return the hardware class of this machine for a suite. Raises HostError for a device that it lacks."""
    return hardware_of_device(suite.cases[0].config.device)


def hardware_of_device(device: str) -> str:
    """Return the hardware class of this machine for a device. Raises HostError for one that it lacks."""
    return hardware_class(SpawnEngine().environment(device))


def close_run(folder: Path) -> None:
    """End the run of a folder whose launches are stored elsewhere: the next one begins anew."""
    (folder / RUN_NAME).unlink(missing_ok=True)


def measure_alone(request: LaunchRequest, listener: EventListener, say: Callable[[str], None]) -> OwnLaunches:
    """Measure launches of the program that runs.

    Raises UserError for a folder that cannot be written and for refused settings, HostError for what the machine lacks.
    """
    built = running_side()
    # A layout in every round: base was measured with others, so that what one does is no difference of the code.
    with side_engines(built, least=1) as (engine,), check_folder(request.folder) as stores:
        check_host(request.suite, engine, {})
        identity = identity_of(request.suite, engine)
        run, notice = open_run(request.folder, new_run(request.suite.name, identity, built, built))
        if notice:
            say(notice)
        cases = cases_of(request.suite)
        stage = Stage(
            name="launches",
            cases=cases,
            launches=range(1, 1 + request.launches),
            seeded=[case.case_id for case in cases],
            seeds=request.rule.quality_seeds,
        )
        lane = Lane(name="head", built=built, store=stores["head"], engine=engine)
        interleaved = Interleaved(run, [lane], listener)
        interleaved.measure(stage)
        records = tuple(interleaved.records("head", stage))
    return OwnLaunches(run=run, records=records, failures=interleaved.failures, hardware=hardware_of(request.suite))


def require_all(measured: OwnLaunches) -> Sequence[Record]:
    """Return the records of launches that all went well. Raises UnusableError for a launch that failed."""
    if measured.failures:
        raise UnusableError("; ".join(measured.failures))
    return measured.records


def running_side() -> BuiltSide:
    """Return the program that runs, as a side."""
    source = SpawnEngine().environment("cpu")
    side = Side(name=WORKING_TREE, commit=source.git_commit, dirty=source.git_dirty, source_sha256=source.source_sha256)
    return BuiltSide(side=side, python=this_python())
