"""Printing the plan of a run (`arvbench run --dry-run`). Imports no torch for cases on a CPU."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

if TYPE_CHECKING:
    from arvbench.harness.run.plan import Plan, PlannedCase
    from arvbench.harness.run.store import RecordStore
    from arvbench.harness.suites.suite import Suite

_GIB = 2**30


class PlanOptions(NamedTuple):
    """Treatment of recorded cases, and form of the plan."""

    fresh: bool
    retry_failed: bool
    as_json: bool
    predict: bool
    """Predict the memory of every case, which imports torch."""


def print_plan(suite: Suite, store: RecordStore, options: PlanOptions) -> None:
    """Print every case of a run, what would be done with it, and its time and memory when it was measured last."""
    from arvbench.harness.run.plan import plan

    fresh, retry_failed, as_json, predict = options
    planned = plan(suite.cases, store.records(), _identity, fresh=fresh, retry_failed=retry_failed)
    predicted = [_predicted(case) if predict else None for case in planned.cases]
    if as_json:
        rows = [_as_json(case) for case in planned.cases]
        more = [{"predicted_bytes": size} if predict else {} for size in predicted]
        typer.echo(json.dumps([row | extra for row, extra in zip(rows, more, strict=True)], indent=2))
        return
    for case, size in zip(planned.cases, predicted, strict=True):
        typer.echo(_line(case) + (f"; tensors, predicted: {size / 2**20:.1f} MiB" if size is not None else ""))
    typer.echo(_summary(planned))


def _predicted(planned: PlannedCase) -> int | None:
    """Return the predicted bytes of all tensors of a case; None where they cannot be predicted."""
    from arvbench.errors import UserError
    from arvbench.harness.measure.footprint import predict

    try:
        return predict(planned.case.config).total_bytes
    except UserError:
        return None


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
    to_come = {"further": planned.further} if case.config.search is not None else {}
    return {
        "case": case.case_id,
        "launch": case.launch,
        "will": planned.will,
        "status": planned.status,
        "seconds": planned.seconds,
        "peak_bytes": planned.peak_bytes,
        **to_come,
    }


def _line(planned: PlannedCase) -> str:
    seconds = "time unknown" if planned.seconds is None else f"{planned.seconds:.1f} s"
    memory = "memory unknown" if planned.peak_bytes is None else f"{planned.peak_bytes / _GIB:.2f} GiB"
    status = f" ({planned.status})" if planned.status else ""
    to_come = f"; then up to {planned.further} more, whose points follow from its numbers" if planned.further else ""
    return f"{planned.will + status:<16} {seconds:>12} {memory:>14}  {planned.case.title}{to_come}"


def _summary(planned: Plan) -> str:
    measured = len(planned.to_measure)
    known = f"{planned.known_seconds:.0f} s by earlier records" if planned.unknown < measured else ""
    unknown = f"{planned.unknown} of unknown time" if planned.unknown else ""
    times = "; ".join(filter(None, (known, unknown)))
    reused = len(planned.cases) - measured
    further = sum(case.further for case in planned.cases)
    searched = f", and up to {further} more of searches" if further else ""
    counts = f"{len(planned.cases)} case(s): {reused} reused, {measured} to measure{searched}"
    return counts + (f" ({times})" if times else "")
