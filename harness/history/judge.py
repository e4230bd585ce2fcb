"""Judgement of all series of a history together.

A number that varies has change points when it has any split at all that chance does not explain, by Holm's method over
all such numbers of the history, and when the medians around a split differ by what matters: 3 %, of quality 1 %, and
the floor of the number. An exact number has one wherever it moves by more than 0.1 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import Final

from arvbench.harness.check.control import machine_moved
from arvbench.harness.check.gated import Judgement
from arvbench.harness.check.rule import Rule
from arvbench.harness.history.change_points import (
    Found,
    Split,
    can_be_found,
    draws_for,
    drifts,
    find_splits,
    sides,
    with_effect,
)
from arvbench.harness.history.series import Measured
from arvbench.results.history import ChangePoint, NumberHistory
from arvbench.results.schema import Record
from arvbench.results.verdict import Cause

_NEAR: Final = 10
"""Points on each side of a change point that say what else changed there."""


def judge(series: Sequence[Measured], rule: Rule) -> tuple[list[NumberHistory], int]:
    """Return the series with their change points, and how many were tested."""
    family = _testable(series, rule.level)
    level = rule.level / max(1, len(family))
    draws = draws_for(level)
    found = {place: find_splits(_values(series[place]), level=rule.level, draws=draws) for place in family}
    confirmed = _holm(found, rule.level)
    judged = []
    for place, one in enumerate(series):
        if one.judgement is Judgement.EXACT:
            judged.append(_marked(one, _steps(_values(one), rule.exact_change)))
        elif place not in family:
            judged.append(one.history.model_copy(update={"enough": False}))
        else:
            splits = found[place].splits if place in confirmed else ()
            least = rule.quality_change if one.judgement is Judgement.SEEDS else rule.least_change
            judged.append(_varying(one, with_effect(_values(one), splits, least, one.floor)))
    return judged, len(family)


def _values(one: Measured) -> list[float]:
    return [point.value for point in one.history.points]


def _testable(series: Sequence[Measured], level: float) -> list[int]:
    """Return the places of varying series with enough points: the longer a series, the more it may share the level.

    A series that could never be marked would only take from the level of the others.
    """
    varying = [place for place, one in enumerate(series) if one.judgement is not Judgement.EXACT]
    kept = sorted(varying, key=lambda place: -len(series[place].history.points))
    while kept and not can_be_found(len(series[kept[-1]].history.points), level / len(kept)):
        kept.pop()
    return sorted(kept)


def _holm(found: dict[int, Found], level: float) -> set[int]:
    """Return the series that have any change at the level of all together."""
    confirmed: set[int] = set()
    for place in sorted(found, key=lambda place: found[place].p):
        if found[place].p > level / (len(found) - len(confirmed)):
            break
        confirmed.add(place)
    return confirmed


def _steps(values: Sequence[float], least: float) -> list[Split]:
    """Return where an exact number moves by more than the share `least`."""
    return [Split(place, 0.0) for place, (a, b) in enumerate(pairwise(values), start=1) if abs(b - a) > least * a]


def _varying(one: Measured, splits: Sequence[Split]) -> NumberHistory:
    """Return a series with its change points, or with its drift in their place."""
    values = _values(one)
    if splits and drifts(values, splits):
        first, last = (median(values[side]) for side in (slice(None, 5), slice(-5, None)))
        return one.history.model_copy(update={"drift": last / first - 1})
    return _marked(one, splits)


def _marked(one: Measured, splits: Sequence[Split]) -> NumberHistory:
    changes = tuple(_change(one, splits, place) for place in range(len(splits)))
    return one.history.model_copy(update={"change_points": changes})


def _change(one: Measured, splits: Sequence[Split], place: int) -> ChangePoint:
    values, points, split = _values(one), one.history.points, splits[place]
    before, after = sides(len(values), splits, place)
    cause, reason = _cause(one, before, after)
    exact = one.judgement is Judgement.EXACT
    return ChangePoint(
        index=split.index,
        commit=points[split.index].commit,
        after=points[split.index - 1].commit,
        before_value=values[split.index - 1] if exact else median(values[before]),
        after_value=values[split.index] if exact else median(values[after]),
        p=None if exact else split.p,
        cause=cause,
        reason=reason,
    )


def _cause(one: Measured, before: slice, after: slice) -> tuple[Cause, str]:
    """Return the most likely cause: the machine's own speed moved too, the libraries differ, or else the code."""
    near = one.records[before][-_NEAR:], one.records[after][:_NEAR]
    earlier, later = ([record for behind in side for record in behind] for side in near)
    if one.history.kind == "time" and (signs := machine_moved(earlier, later)):
        return Cause.MACHINE, signs[0].replace("beside head", "after").replace("beside base", "before")
    if changed := _libraries(one.records[before][-1][-1], one.records[after][0][0]):
        return Cause.METHOD, f"libraries: {changed}"
    if len({record.environment.source_sha256 for record in (*earlier, *later)}) == 1:
        return Cause.UNKNOWN, "all records have one source"
    return Cause.CODE, ""


def _libraries(before: Record, after: Record) -> str:
    """Say which libraries, and which Python, differ between two records; "" for none."""
    old, new = ({**record.environment.libraries, "Python": record.environment.python} for record in (before, after))
    changed = [f"{name} {old.get(name, 'none')} to {new.get(name, 'none')}" for name in dict.fromkeys((*old, *new))
               if old.get(name) != new.get(name)]  # fmt: skip
    return ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
