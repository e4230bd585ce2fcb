"""Printing the plan of a run (`arvbench run --dry-run`). Imports no torch for cases on a CPU."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from arvbench.harness.run.plan import Plan, PlannedCase
    from arvbench.harness.run.store import RecordStore
    from arvbench.harness.suites.suite import Suite

_GIB = 2**30


def print_plan(suite: Suite, store: RecordStore, *, fresh: bool, retry_failed: bool, as_json: bool) -> None:
    """Print every case of a run, what would be done with it, and its time and memory when it was measured last."""
    from arvbench.harness.run.plan import plan

    planned = plan(suite.cases, store.records(), _identity, fresh=fresh, retry_failed=retry_failed)
    if as_json:
        typer.echo(json.dumps([_as_json(case) for case in planned.cases], indent=2))
        return
    for case in planned.cases:
        typer.echo(_line(case))
    typer.echo(_summary(planned))


@cache
def _identity(device: str) -> Mapping[str, Any] | None:
    from arvbench.harness.machine.installed import cpu_identity

    if device == "cpu":
        return cpu_identity()
    from arvbench.adapters.loading import usable_device
    from arvbench.errors import HostError
    from arvbench.harness.machine.environment import read_environment

    try:
        return read_environment(usable_device(device)).identity()
    except HostError:
        return None


def _as_json(planned: PlannedCase) -> dict[str, Any]:
    case = planned.case
    return {
        "case": case.case_id,
        "launch": case.launch,
        "will": planned.will,
        "status": planned.status,
        "seconds": planned.seconds,
        "peak_bytes": planned.peak_bytes,
    }


def _line(planned: PlannedCase) -> str:
    seconds = "time unknown" if planned.seconds is None else f"{planned.seconds:.1f} s"
    memory = "memory unknown" if planned.peak_bytes is None else f"{planned.peak_bytes / _GIB:.2f} GiB"
    status = f" ({planned.status})" if planned.status else ""
    return f"{planned.will + status:<16} {seconds:>12} {memory:>14}  {planned.case.title}"


def _summary(planned: Plan) -> str:
    measured = len(planned.to_measure)
    known = f"{planned.known_seconds:.0f} s by earlier records" if planned.unknown < measured else ""
    unknown = f"{planned.unknown} of unknown time" if planned.unknown else ""
    times = "; ".join(filter(None, (known, unknown)))
    reused = len(planned.cases) - measured
    return f"{len(planned.cases)} case(s): {reused} reused, {measured} to measure" + (f" ({times})" if times else "")
