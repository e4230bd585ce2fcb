"""Memory of the last outcome of a function of records: the parts of a report ask for the same many times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from operator import is_
from typing import TypeVar

from arvbench.results.schema import Record

Outcome = TypeVar("Outcome")


def remembered(function: Callable[[Sequence[Record]], Outcome]) -> Callable[[Sequence[Record]], Outcome]:
    """Return `function` with a memory of its last outcome, for the very same records.

    The outcome is shared by all callers, who must not change it.
    """
    last = list[tuple[tuple[Record, ...], Outcome]]()

    @wraps(function)
    def of_last(records: Sequence[Record]) -> Outcome:
        if last and len(last[0][0]) == len(records) and all(map(is_, last[0][0], records)):
            return last[0][1]
        outcome = function(records)
        last[:] = [(tuple(records), outcome)]
        return outcome

    return of_last
