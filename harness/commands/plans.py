"""Printing the plan of a run (`arvbench run --dry-run`). Imports no torch for cases on a CPU."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from arvbench.errors import UserError

if TYPE_CHECKING:
    from arvbench.harness.measure.forecast import Forecast
    from arvbench.harness.run.plan import Plan, PlannedCase
    from arvbench.harness.run.store import RecordStore
    from arvbench.harness.suites.suite import Suite
    from arvbench.results.schema import CaseConfig

_GIB = 2**30


class PlanOptions(NamedTuple):
    """Treatment of recorded cases, and form of the plan."""

    fresh: bool
    retry_failed: bool
    as_json: bool
    predict: bool
    """Forecast memory and time of every case, which imports torch."""


def print_plan(suite: Suite, store: RecordStore, options: PlanOptions) -> None:
    """Print every case of a run, what would be done with it, and its time and memory when it was measured last.

    With `predict` the models are imported, and UserError is raised for settings that one of them refuses.
    """
    from arvbench.harness.run.plan import plan

    fresh, retry_failed, as_json, predict = options
    if predict:
        _check_settings(suite)
    planned = plan(suite.cases, store.records(), _identity, fresh=fresh, retry_failed=retry_failed)
    rows = [_as_json(case) for case in planned.cases]
    lines = [_line(case) for case in planned.cases]
    if predict:
        forecasts = _forecasts(planned.cases, store)
        rows = [row | forecast_row(case, found) for row, (case, found) in zip(rows, forecasts, strict=True)]
        lines = [f"{line}\n    {forecast_line(found)}" for line, (_, found) in zip(lines, forecasts, strict=True)]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    for line in lines:
        typer.echo(line)
    typer.echo(_summary(planned))
    if predict:
        typer.echo(
            "forecasts: tensors are weights and the most that a call holds beside them; the least time of a call is a "
            "lower bound, planned FLOPs and bytes over the ceilings of this machine, measured just now"
        )
    else:
        typer.echo("settings were not shown to the models: --predict does, and forecasts memory and time")


def _check_settings(suite: Suite) -> None:
    from arvbench.harness.suites.suite import check_cases

    try:
        check_cases(suite.first_launches, files=False)
    except UserError as error:
        raise UserError(f"{suite.source}: {error}") from error


def _forecasts(cases: Sequence[PlannedCase], store: RecordStore) -> list[tuple[CaseConfig, Forecast]]:
    from arvbench.harness.measure.forecast import forecast

    records = store.records()
    configs = [planned.case.config for planned in cases]
    return [(config, forecast(config, records)) for config in configs]


def forecast_row(case: CaseConfig, found: Forecast) -> dict[str, Any]:
    """Return what `--json` says of a forecast; None for what is unknown, with the reason in `notes`."""
    seconds = None if found.predicted_ns is None else found.predicted_ns * case.repeats / 1e9
    return {
        "predicted_bytes": found.footprint.total_bytes if found.footprint else None,
        "least_call_ns": found.least_ns,
        "predicted_call_ns": found.predicted_ns,
        "predicted_timed_s": seconds,
        "floor_multiple": found.multiple.times if found.multiple else None,
        "floor_multiple_records": found.multiple.records if found.multiple else 0,
        "notes": [note for note in (found.memory_note, found.time_note) if note],
    }


def forecast_line(found: Forecast) -> str:
    """Return one line: the memory of all tensors, and the time of a call."""
    from arvbench.reports.numbers import significant

    memory, time = f"tensors unknown: {found.memory_note}", f"a call's time unknown: {found.time_note}"
    if found.footprint is not None:
        memory = f"tensors, predicted: {found.footprint.total_bytes / 2**20:.1f} MiB"
    if found.least_ns is not None:
        time = f"a call: at least {significant(found.least_ns / 1e6)} ms"
        time += ", prediction unknown: no record here tells its multiple" if found.multiple is None else ""
    if found.predicted_ns is not None and (known := found.multiple) is not None:
        whose = f"of {known.model}" if known.model else "of other models"
        time += f", predicted {significant(found.predicted_ns / 1e6)} ms: {known.times:.1f} times that, the median of "
        time += f"{known.records} record(s) {whose} at batch {known.batch} here"
    return f"{memory}; {time}"


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
