"""Runs experiments: planned quantities are computed, measured ones come from records of the runner."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from arvbench.errors import UserError
from arvbench.files import write_whole
from arvbench.harness.claims.measured import Found, check_apart, measured_quantity, run_cases, write_suite
from arvbench.harness.claims.planned import planned_quantity
from arvbench.results.claims import OUTCOMES_NAME, Experiment, Outcome, Outcomes, Provenance, outcome_value
from arvbench.results.schema import Environment, Record

if TYPE_CHECKING:
    from arvbench.harness.run.runner import RunListener
    from arvbench.harness.run.store import RecordStore
    from arvbench.harness.suites.suite import Suite


def prepare(experiments: Sequence[Experiment], folder: Path) -> Suite | None:
    """Write the suite of the measured experiments; None when there are none."""
    measured = [experiment for experiment in experiments if experiment.kind == "measured"]
    return write_suite(measured, folder) if measured else None


def run_experiments(
    experiments: Sequence[Experiment], suite: Suite | None, store: RecordStore, listener: RunListener
) -> tuple[Outcome, ...]:
    """Return the outcome of every experiment, in order; one that fails has a note in place of a value."""
    import torch

    from arvbench.harness.machine.environment import read_environment

    records = [] if suite is None else run_cases(suite, store, listener)
    here = read_environment(torch.device("cpu"))
    return tuple(_outcome(experiment, records, here) for experiment in experiments)


def _outcome(experiment: Experiment, records: Sequence[Record], here: Environment) -> Outcome:
    if experiment.kind == "none" or (experiment.kind == "measured" and not records):
        return Outcome(experiment=experiment)
    made = _provenance(here, datetime.now(UTC))
    try:
        found = [_quantity(experiment, place, records) for place in range(len(experiment.terms))]
        if experiment.decides == "direction":
            check_apart(*found)
        along = tuple(planned_quantity(term, experiment.along) for term in experiment.terms if experiment.along)
        quantities = tuple(each.value for each in found)
        value = outcome_value(experiment, quantities, along)
    except UserError as error:
        return Outcome(experiment=experiment, note=str(error)[:300], provenance=made)
    ids = tuple(name for each in found for name in each.record_ids)
    behind = [record for record in records if record.record_id in ids]
    if behind:
        made = _provenance(behind[0].environment, max(record.finished for record in behind))
    return Outcome(experiment=experiment, quantities=quantities, value=value, record_ids=ids, provenance=made)


def _quantity(experiment: Experiment, place: int, records: Sequence[Record]) -> Found:
    term, quantity = experiment.terms[place], experiment.quantity
    assert quantity is not None
    if experiment.kind == "measured":
        return measured_quantity(records, term, quantity)
    return Found(planned_quantity(term, quantity))


def _provenance(environment: Environment, made: datetime) -> Provenance:
    return Provenance(
        machine=environment.cpu,
        cores=environment.cores,
        arvbench=environment.arvbench_version,
        commit=environment.git_commit,
        dirty=environment.git_dirty,
        made=made.replace(microsecond=0),
    )


def write_outcomes(outcomes: Sequence[Outcome], folder: Path) -> Path:
    """Write the file of outcomes into `folder`, whole or not at all. Raises UserError when it cannot be written."""
    path = folder / OUTCOMES_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, Outcomes(outcomes=tuple(outcomes)).model_dump_json(indent=1) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; choose another folder with --out") from error
    return path
