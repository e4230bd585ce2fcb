"""A run before it begins: which cases it would measure, which it would reuse, and what they are likely to take.

Reading a plan for a CPU imports no torch: 500 cases take less time than that import. So files are not looked at: a case
whose weights or references changed on disk, which a run measures again, is planned as reused.

Units    _s seconds, _bytes bytes
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from arvbench.harness.suites.suite import Case
from arvbench.results.schema import CaseConfig, Measured, Record, Status

_COSTS_NOTHING = {"launches", "timeout_s", "memory_limit_bytes"}
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
    same: dict[str, Record] = {}
    alike: dict[str, Record] = {}
    for record in records:
        same[_key(record.case, record.launch, record.environment.identity())] = record
        if record.status is Status.OK:
            alike[_cost_key(record.case)] = record
    planned = []
    for case in cases:
        machine = here(case.config.device)
        old = None if machine is None else same.get(_key(case.config, case.launch, machine))
        reused = old is not None and not fresh and not (retry_failed and old.status is not Status.OK)
        last = alike.get(_cost_key(case.config))
        outcome = last.outcome if last is not None else None
        planned.append(
            PlannedCase(
                case=case,
                will="reuse" if reused else "measure again" if old is not None else "measure",
                status=old.status if old is not None else None,
                seconds=(last.finished - last.started).total_seconds() if last is not None else None,
                peak_bytes=outcome.memory.peak_bytes if isinstance(outcome, Measured) else None,
            )
        )
    return Plan(cases=tuple(planned))


def _key(case: CaseConfig, launch: int, identity: Mapping[str, Any]) -> str:
    return _json([case.model_dump(mode="json", exclude={"launches"}), launch, identity])


def _cost_key(case: CaseConfig) -> str:
    return _json(case.model_dump(mode="json", exclude=_COSTS_NOTHING))


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
