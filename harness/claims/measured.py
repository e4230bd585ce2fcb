"""Quantities that are measured: the runner takes the cases of all experiments in one suite, in rounds of launches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from arvbench.errors import UserError
from arvbench.files import write_whole
from arvbench.harness.suites.suite import Suite, load_suite
from arvbench.results.claims import Experiment, Term
from arvbench.results.launches import merge_launches
from arvbench.results.schema import Failed, Incorrect, Measured, Record
from arvbench.results.statistics import find_timing, nanoseconds

if TYPE_CHECKING:
    from arvbench.harness.run.runner import RunListener
    from arvbench.harness.run.store import RecordStore

SUITE_NAME = "suite.yaml"
"""Suite in the run folder, which `arvbench run` takes as well."""
_DEFAULTS = {"weights": "random:0", "device": "cpu", "launches": 3, "repeats": 2, "max_warmup": 2, "timeout_s": 3600}


class Found(NamedTuple):
    """A measured quantity."""

    value: float
    record_ids: tuple[str, ...]


def write_suite(experiments: Sequence[Experiment], folder: Path) -> Suite:
    """Write the suite of all measured experiments into `folder`, and read it. Raises UserError as `load_suite`."""
    terms = dict.fromkeys(_written(term) for each in experiments for term in each.terms)
    suite = {
        "name": "claims",
        "description": "Cases of the claims that this machine can measure",
        "defaults": _DEFAULTS,
        "cases": [yaml.safe_load(term) for term in terms],
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / SUITE_NAME, yaml.safe_dump(suite, sort_keys=False))
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}; choose another with --out") from error
    return load_suite(str(folder / SUITE_NAME))


def run_cases(suite: Suite, store: RecordStore, listener: RunListener) -> list[Record]:
    """Measure what is not recorded yet, and return one record per case, its launches as one."""
    from arvbench.harness.run.engines.local import LocalEngine
    from arvbench.harness.run.ready import check_host
    from arvbench.harness.run.runner import RunOptions, run_suite

    engine = LocalEngine()
    check_host(suite, engine, {})
    store.prepare()
    return list(merge_launches(run_suite(suite, store, engine, listener, options=RunOptions(control=True))))


def measured_quantity(records: Sequence[Record], term: Term, quantity: str) -> Found:
    """Return a quantity of the case of `term`. Raises UserError, with the reason, when it has none."""
    record = next((record for record in records if _is_of(record, term)), None)
    if record is None:
        raise UserError(f"{term} was not measured")
    outcome = record.outcome
    if isinstance(outcome, Failed):
        raise UserError(f"{term}: {outcome.status.value}: {outcome.reason}")
    if isinstance(outcome, Incorrect):
        raise UserError(f"{term}: its output differs from its judge, so it is not timed")
    value = _QUANTITIES[quantity](outcome)
    if value is None:
        raise UserError(f"{term}: this machine has no {quantity}")
    return Found(value, (record.record_id,))


def _scope(scope: str) -> Callable[[Measured], float | None]:
    def median(outcome: Measured) -> float | None:
        timing = find_timing(outcome, scope)
        return None if timing is None else nanoseconds(timing).value

    return median


_QUANTITIES: Mapping[str, Callable[[Measured], float | None]] = {
    "images_ns": _scope("images"),
    "tokens_ns": _scope("tokens"),
    "decode_ns": _scope("decode"),
    "peak_bytes": lambda outcome: outcome.memory.peak_bytes,
    "cache_live_bytes": lambda outcome: outcome.memory.cache_live_bytes,
}


def _written(term: Term) -> str:
    """Write the keys of a case that a term states, as YAML."""
    stated: dict[str, Any] = term.model_dump(exclude_defaults=True)
    return yaml.safe_dump(stated, sort_keys=True)


def _is_of(record: Record, term: Term) -> bool:
    case = record.case
    return (case.model, case.method, case.cache, case.batch, case.dtype, case.settings) == (
        term.model,
        term.method,
        term.cache,
        term.batch,
        term.dtype,
        term.settings,
    )
