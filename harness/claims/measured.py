"""Quantities that are measured: the runner takes the cases of all experiments in one suite, one launch of each."""

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
_DEFAULTS = {"weights": "random:0", "device": "cpu", "launches": 1, "repeats": 3, "max_warmup": 1, "timeout_s": 3600}
"""Times that lie apart decide a side of no change, and three calls show whether they do."""


class Found(NamedTuple):
    """A quantity, measured or computed."""

    value: float
    record_ids: tuple[str, ...] = ()
    samples: tuple[float, ...] = ()
    """Single calls behind a time."""


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
    ids, timing = (record.record_id,), find_timing(outcome, _SCOPES.get(quantity, ""))
    if timing is not None:
        return Found(nanoseconds(timing).value, ids, timing.samples_ns)
    value = _SIZES[quantity](outcome) if quantity in _SIZES else None
    if value is None:
        raise UserError(f"{term}: this machine has no {quantity}")
    return Found(value, ids)


def check_apart(of: Found, over: Found) -> None:
    """Raise UserError where the calls of two cases overlap: which of the two is faster would be chance."""
    if (
        of.samples
        and over.samples
        and max(min(of.samples), min(over.samples)) <= min(max(of.samples), max(over.samples))
    ):
        low, high = min(of.samples) / max(over.samples), max(of.samples) / min(over.samples)
        raise UserError(f"the calls of both overlap ({low:.2f}x to {high:.2f}x), so they decide no direction")


_SCOPES: Mapping[str, str] = {"images_ns": "images", "tokens_ns": "tokens", "decode_ns": "decode"}
_SIZES: Mapping[str, Callable[[Measured], float | None]] = {
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
