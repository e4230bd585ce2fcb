"""Flags of a case, as in the summaries of MLPerf: what it has, and what a reader must know before comparing it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from arvbench.reports.cases import has_random_weights, setup_of
from arvbench.results.launches import launches_of
from arvbench.results.schema import Measured, Record


def _measured(test: Callable[[Measured], bool]) -> Callable[[Record], bool]:
    return lambda record: isinstance(record.outcome, Measured) and test(record.outcome)


def _deviates(record: Record) -> bool:
    setup = setup_of(record)
    return setup is not None and bool(setup.settings_deviations or setup.recipe_deviations)


def _locked(record: Record) -> bool:
    """Return whether every launch says that its clocks were held."""
    telemetry = [each.outcome.telemetry for each in launches_of(record) if isinstance(each.outcome, Measured)]
    return bool(telemetry) and all(each is not None and each.clocks_locked is True for each in telemetry)


FLAGS: Final[Mapping[str, Callable[[Record], bool]]] = {
    "has_power": _measured(lambda outcome: outcome.energy is not None),
    "has_quality": _measured(lambda outcome: bool(outcome.quality)),
    "random_weights": has_random_weights,
    "deviations": _deviates,
    "steady": _measured(lambda outcome: outcome.warmup.steady),
    "clocks_locked": _locked,
    "launches": lambda record: len(launches_of(record)) > 1,
    "best_of": lambda record: record.case.search is not None,
}
"""Flag -> whether a case has it. "launches" means several, "best_of" a try of a search."""


def flags_text(record: Record) -> str:
    """Return the flags of a case, parted by spaces."""
    return " ".join(name for name, has in FLAGS.items() if has(record))
