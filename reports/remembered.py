"""Memory of the last outcomes of a function of records: the parts of a report ask for the same many times."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from operator import is_
from typing import Any, TypeVar

from arvbench.results.schema import Record

_MOST = 4
"""Outcomes of one function: those for all records of a report, and for the few that single tables are about."""
_memories = list[list[tuple[tuple[Record, ...], Any]]]()

Outcome = TypeVar("Outcome")


def remembered(function: Callable[[Sequence[Record]], Outcome]) -> Callable[[Sequence[Record]], Outcome]:
    """Return `function` with a memory of its last outcomes, each for the very same records.

    An outcome is shared by all callers, who must not change it.
    """
    last = list[tuple[tuple[Record, ...], Outcome]]()
    _memories.append(last)

    @wraps(function)
    def of_last(records: Sequence[Record]) -> Outcome:
        for place, (known, outcome) in enumerate(last):
            if len(known) == len(records) and all(map(is_, known, records)):
                last.insert(0, last.pop(place))
                return outcome
        outcome = function(records)
        last.insert(0, (tuple(records), outcome))
        del last[_MOST:]
        return outcome

    return of_last


@contextmanager
def forgotten_after() -> Iterator[None]:
    """Forget all outcomes at the end, which else keep the records of a report."""
    try:
        yield
    finally:
        for memory in _memories:
            memory.clear()
