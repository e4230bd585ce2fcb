"""Searches of a suite: from the records of the tries so far to the next cases."""

from __future__ import annotations

from collections.abc import Iterable

from arvbench.errors import UserError
from arvbench.harness.suites.names import case_name
from arvbench.harness.suites.points import at_point
from arvbench.harness.suites.suite import Case, Suite
from arvbench.results.launches import merge_launches
from arvbench.results.schema import Record
from arvbench.results.search import Search, next_point
from arvbench.results.search_request import Point


def next_tries(search: Case, records: Iterable[Record]) -> tuple[Case, ...]:
    """Return the launches of the next try, then those of the confirmation; none when the search is at its end.

    `search` is its case in the suite, `records` are those of its tries, each launch once: nothing else is remembered,
    so that a search which was killed goes on as if it had not been.
    """
    request = search.config.search
    assert request is not None
    found = Search.of(merge_launches(records), request)
    point = next_point(request, found.scored())
    if point is not None:
        return _launches(search, point, number=len(found.scored()) + 1)
    best = found.best
    if not request.confirm or found.confirmations or best is None:
        return ()
    number = best.case.search.number if best.case.search is not None else 1
    return _launches(search, found.point_of(best), number=number, confirmation=True)


def further(search: Case, *, found: int) -> int:
    """Return how many launches a search will still have after `found` of them, at most."""
    request = search.config.search
    assert request is not None
    return max(0, (request.most + request.confirm) * search.config.launches - found)


def refuse_searches(suite: Suite, why: str) -> None:
    """Raise UserError for a suite with a search, for the reason `why`."""
    for case in suite.first_launches:
        if case.config.search is not None:
            raise UserError(f"{suite.source}: {case.case_id} is a search: {why}")


def _launches(search: Case, point: Point, *, number: int, confirmation: bool = False) -> tuple[Case, ...]:
    config = at_point(search.config, point, number=number, confirmation=confirmation)
    name = case_name(config) + search.case_id.removeprefix(case_name(search.config))
    later = config.model_copy(update={"quality": None, "sample_sheet": 0})
    return tuple(
        Case(case_id=name, config=config if launch == 1 else later, launch=launch)
        for launch in range(1, config.launches + 1)
    )
