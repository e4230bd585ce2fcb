"""A run before it begins: which cases it would measure, which it would reuse, and what they are likely to take.

Reading a plan for a CPU imports no torch: 500 cases take less time than that import. So files are not looked at: a case
whose weights or references changed on disk, which a run measures again, is planned as reused.

Units    _s seconds, _bytes bytes
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from arvbench.harness.suites.searches import further, next_tries
from arvbench.harness.suites.suite import Case
from arvbench.results.schema import CaseConfig, Measured, Record, Status
from arvbench.results.search import identity_of

_COSTS_NOTHING = {"launches", "timeout_s", "memory_limit_bytes", "search"}
"""Fields of a case that change neither its time nor its memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCase:
    """A case, what a run does with it, and what it took when it was measured last; None where that is unknown."""

    case: Case
    will: Literal["reuse", "measure", "measure again"]
    status: Status | None
    """Of the record that is reused or was made last."""
    seconds: float | None
    peak_bytes: int | None
    further: int = 0
    """Launches of a search behind this one at most; their points follow from its numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All cases of a run, in order."""

    cases: tuple[PlannedCase, ...]

    @property
    def to_measure(self) -> tuple[PlannedCase, ...]:
        return tuple(planned for planned in self.cases if planned.will != "reuse")

    @property
    def known_seconds(self) -> float:
        """Time of those cases to be measured that were measured before."""
        return sum(planned.seconds or 0.0 for planned in self.to_measure)

    @property
    def unknown(self) -> int:
        """Number of cases to be measured whose time is unknown."""
        return sum(planned.seconds is None for planned in self.to_measure)


def plan(
    cases: Sequence[Case],
    records: Iterable[Record],
    here: Callable[[str], Mapping[str, Any] | None],
    *,
    fresh: bool = False,
    retry_failed: bool = False,
) -> Plan:
    """Plan a run over `cases` beside the records that its folder has.

    `here` returns the machine's identity for a device (`Environment.identity`); None where it has no such device, and
    then nothing is reused.
    """
    planner = _Planner(records, here, fresh=fresh, retry_failed=retry_failed)
    return Plan(
        cases=tuple(
            planned
            for case in cases
            for planned in (planner.search(case) if case.config.search is not None else [planner.case(case)])
        )
    )


class _Planner:
    """Plans single cases beside the records of a folder."""

    def __init__(
        self,
        records: Iterable[Record],
        here: Callable[[str], Mapping[str, Any] | None],
        *,
        fresh: bool,
        retry_failed: bool,
    ) -> None:
        self._here, self._fresh, self._retry_failed = here, fresh, retry_failed
        self._same: dict[str, Record] = {}
        self._alike: dict[str, Record] = {}
        for record in records:
            self._same[_key(record.case, record.launch, record.environment.identity())] = record
            if record.status is Status.OK:
                self._alike[_cost_key(record.case)] = record

    def case(self, case: Case) -> PlannedCase:
        old, reused = self._recorded(case)
        last = self._alike.get(_cost_key(case.config))
        outcome = last.outcome if last is not None else None
        return PlannedCase(
            case=case,
            will="reuse" if reused else "measure again" if old is not None else "measure",
            status=old.status if old is not None else None,
            seconds=(last.finished - last.started).total_seconds() if last is not None else None,
            peak_bytes=outcome.memory.peak_bytes if isinstance(outcome, Measured) else None,
        )

    def search(self, search: Case) -> list[PlannedCase]:
        """Plan the tries of a search up to the first one that is to be measured: the next points follow from it."""
        planned: list[PlannedCase] = []
        found: list[Record] = []
        while tries := next_tries(search, found):
            planned += map(self.case, tries)
            known = [old for old, reused in map(self._recorded, tries) if old is not None and reused]
            found += known
            if len(known) < len(tries):
                planned[-1] = replace(planned[-1], further=further(search, found=len(planned)))
                break
        return planned

    def _recorded(self, case: Case) -> tuple[Record | None, bool]:
        """Return the record of a case, if there is one, and whether a run reuses it."""
        machine = self._here(case.config.device)
        old = None if machine is None else self._same.get(_key(case.config, case.launch, machine))
        again = self._fresh or (self._retry_failed and old is not None and old.status is not Status.OK)
        return old, old is not None and not again


def _key(case: CaseConfig, launch: int, identity: Mapping[str, Any]) -> str:
    return _json([identity_of(case), launch, identity])


def _cost_key(case: CaseConfig) -> str:
    return _json(case.model_dump(mode="json", exclude=_COSTS_NOTHING))


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
