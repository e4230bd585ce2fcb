"""Verdicts of a check: the rule on the launches of both sides.

First stage   `screen`: few launches of everything; says which numbers are suspected, and clears the others
Second stage  `conclude`: fresh launches of the suspected numbers, which alone decide about them
More looks    `decide_again`: more launches of what was inconclusive
One stage     `decide`: launches of everything, such as a run against a stored baseline

Units         times in ns, memory in bytes, quality in the metric's own unit; changes are fractions
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from arvbench.errors import UserError
from arvbench.harness.check.gated import Judgement, Key, Pair, Series, pairs_of
from arvbench.harness.check.judge import detectable, findings, screen_detectable, suspected
from arvbench.harness.check.launch_tests import Comparison, Floats, compare
from arvbench.harness.check.rule import Rule, can_alarm, launches_needed
from arvbench.harness.check.seeds import SeedComparison, compare_seeds, seeds_change
from arvbench.harness.check.wording import launches_change, percent, steady_change, unusable_change
from arvbench.results.verdict import Change, Verdict, worst


@dataclass(frozen=True, slots=True, kw_only=True)
class Screening:
    """Outcome of the first stage."""

    changes: Mapping[Key, Change]
    """Numbers that need no second stage."""
    suspected: Mapping[Key, Pair]
    """Numbers to measure again in fresh launches."""
    order: tuple[Key, ...]
    """All numbers, as they are listed."""
    family: int
    """Numbers that the level is shared among."""


def screen(base: Sequence[Series], head: Sequence[Series], rule: Rule, *, machine: Sequence[str] = ()) -> Screening:
    """Clear the numbers that show no sign of a change, and suspect the others.

    A number is suspected, too, when so few launches cannot clear it: the scatter is too wide, the number varies with
    the run seed, or `machine` has signs that the machine moved. Exact numbers, and those that no launch can make
    usable, have their verdict.
    """
    pairs = pairs_of(base, head)
    family = _family(pairs, rule)
    require_launches(rule.launches, family, rule)
    changes: dict[Key, Change] = {}
    again: dict[Key, Pair] = {}
    for pair in pairs:
        cleared = _first_look(pair, family, rule, moved=bool(machine))
        if cleared is None:
            again[pair.key] = pair
        else:
            changes[pair.key] = cleared
    return Screening(changes=changes, suspected=again, order=tuple(pair.key for pair in pairs), family=family)


def conclude(
    screening: Screening, base: Sequence[Series], head: Sequence[Series], rule: Rule, *, machine: Sequence[str] = ()
) -> tuple[Change, ...]:
    """Return the changes of a whole check, from the first stage and the fresh launches of the suspected numbers.

    Images are not made by every launch: a quality number that the second stage lacks is judged by the first one's
    seeds. Raises UserError when the launches are too few to blame anything.
    """
    first = {key: pair for key, pair in screening.suspected.items() if pair.shown.judgement is Judgement.SEEDS}
    fresh = first | {pair.key: pair for pair in pairs_of(base, head) if pair.key in screening.suspected}
    decided = dict(screening.changes)
    for change in _decided(tuple(fresh.values()), screening.family, rule, machine):
        decided[change.case, change.number] = change
    for key, pair in screening.suspected.items():
        if key not in fresh:
            decided[key] = unusable_change(pair, "the second stage does not have this number.")
    return tuple(decided[key] for key in screening.order)


def decide_again(
    changes: Sequence[Change],
    family: int,
    sides: tuple[Sequence[Series], Sequence[Series]],
    rule: Rule,
    *,
    machine: Sequence[str] = (),
) -> tuple[Change, ...]:
    """Judge the inconclusive numbers of a check again, by all launches since its second stage; the others stay.

    `family` counts the numbers that share the level, and `rule` is that of the look (`rule.of_look`).
    """
    undecided = {(change.case, change.number) for change in changes if change.verdict is Verdict.INCONCLUSIVE}
    pairs = tuple(pair for pair in pairs_of(*sides) if pair.key in undecided)
    new = {(change.case, change.number): change for change in _decided(pairs, family, rule, machine)}
    return tuple(new.get((change.case, change.number), change) for change in changes)


def require_launches(launches: int, family: int, rule: Rule) -> None:
    """Raise UserError when `launches` of each side cannot blame one of `family` numbers."""
    if not can_alarm(launches, launches, family, rule):
        raise UserError(_too_few(launches, launches, family, rule))


def decide(
    base: Sequence[Series], head: Sequence[Series], rule: Rule, *, machine: Sequence[str] = ()
) -> tuple[Change, ...]:
    """Judge all numbers by one set of launches.

    Raises UserError when the launches are too few to blame anything.
    """
    pairs = pairs_of(base, head)
    return _decided(pairs, _family(pairs, rule), rule, machine)


def verdict_of(changes: Sequence[Change], *, unusable: Sequence[str] = ()) -> Verdict:
    """Return the verdict of a whole check: that of its worst number, and `unusable` when nothing was gated.

    `unusable` are reasons that concern no single number, such as a case that failed.
    """
    return worst([*(change.verdict for change in changes), *(Verdict.UNUSABLE for _ in unusable)])


def _first_look(pair: Pair, family: int, rule: Rule, *, moved: bool) -> Change | None:
    """Return the verdict of a number that needs no second stage, or None."""
    if fault := pair.fault():
        return unusable_change(pair, fault)
    if steady := steady_change(pair, rule):
        return steady
    base, head = _values(pair)
    if pair.shown.judgement is Judgement.SEEDS or moved or min(len(base), len(head)) < 2:
        return None
    found = compare(base, head, rule)
    seen = float(screen_detectable(_scatter(found, pair), (len(base), len(head)), family, rule))
    if suspected(found, rule) or seen > rule.blind:
        return None
    p = min(1.0, family * float(min(found.up.p, found.down.p)))
    return launches_change(pair, found, Verdict.PASS, p=p, seen=seen, rule=rule)


def _decided(pairs: Sequence[Pair], family: int, rule: Rule, machine: Sequence[str]) -> tuple[Change, ...]:
    """Judge pairs that are part of a family of numbers."""
    changes: dict[Key, Change] = {}
    noisy: dict[Key, tuple[Pair, Comparison | SeedComparison]] = {}
    for pair in pairs:
        if fault := pair.fault():
            changes[pair.key] = unusable_change(pair, fault)
        elif steady := steady_change(pair, rule):
            changes[pair.key] = steady
        elif pair.shown.judgement is Judgement.SEEDS:
            noisy[pair.key] = (pair, compare_seeds(*_values(pair)))
        elif short := _short(pair, family, rule):
            changes[pair.key] = unusable_change(pair, short)
        else:
            noisy[pair.key] = (pair, compare(*_values(pair), rule))
    _require_launches(pairs, family, rule)
    p_up = _holm([float(found.up.p) for _, found in noisy.values()], family)
    p_down = _holm([float(found.down.p) for _, found in noisy.values()], family)
    for (pair, found), up, down in zip(noisy.values(), p_up, p_down, strict=True):
        changes[pair.key] = _judged(pair, found, (up, down), family, rule, machine)
    return tuple(changes[pair.key] for pair in pairs)


def _holm(p: Sequence[float], family: int) -> Floats:
    """Adjust `p` by Holm's method, in a family of `family` numbers; those that are not given count as p = 1."""
    from statsmodels.stats.multitest import multipletests

    given = [*p, *[1.0] * (family - len(p))]
    return np.asarray(multipletests(given, method="holm")[1][: len(p)]) if p else np.array([])


def _judged(
    pair: Pair,
    found: Comparison | SeedComparison,
    p: tuple[float, float],
    family: int,
    rule: Rule,
    machine: Sequence[str],
) -> Change:
    """Return the change of a number that varies; `p` of head being larger and smaller, adjusted."""
    if isinstance(found, SeedComparison):
        return seeds_change(pair, found, p, family, rule)
    base, head = _values(pair)
    seen = detectable(_scatter(found, pair), (len(base), len(head)), family, rule)
    sides = findings(found, np.asarray(p[0]), np.asarray(p[1]), seen, rule)
    large = abs(float(np.median(head) - np.median(base))) >= pair.shown.floor
    if machine and pair.shown.kind == "time":
        verdict = Verdict.MACHINE
    elif large and (sides.up or sides.down):
        worse = bool(sides.up) == pair.shown.lower_is_better
        verdict = Verdict.REGRESSION if worse else Verdict.IMPROVEMENT
    else:
        verdict = Verdict.INCONCLUSIVE if sides.blind else Verdict.PASS
    return launches_change(pair, found, verdict, p=min(p), seen=float(seen), rule=rule)


def _family(pairs: Sequence[Pair], rule: Rule) -> int:
    """Count the numbers that the level is shared among: all that vary, at least 1."""
    varying = [pair for pair in pairs if not pair.fault() and not steady_change(pair, rule)]
    return max(1, len(varying))


def _require_launches(pairs: Sequence[Pair], family: int, rule: Rule) -> None:
    """Refuse launches of which not even complete separation is evidence."""
    by_launch = [pair for pair in pairs if not pair.fault() and pair.shown.judgement is Judgement.LAUNCHES]
    counts = [tuple(len(values) for values in _values(pair)) for pair in by_launch]
    if counts and not any(can_alarm(base, head, family, rule) for base, head in counts):
        most = max(counts, key=min)
        raise UserError(_too_few(most[0], most[1], family, rule))


def _too_few(base: int, head: int, family: int, rule: Rule) -> str:
    needed = launches_needed(family, rule)
    numbers = "1 gated number needs" if family == 1 else f"{family} gated numbers need"
    return (
        f"{numbers} {needed} launches per side before any can be blamed at a level of {percent(rule.level)}; "
        f"base has {base} and head has {head}: give --launches {needed} or more"
    )


def _short(pair: Pair, family: int, rule: Rule) -> str | None:
    """Return why a number has too few launches, or None."""
    base, head = (len(values) for values in _values(pair))
    if can_alarm(base, head, family, rule):
        return None
    needed = launches_needed(family, rule)
    return f"base has {base} and head has {head} launches of this number; {needed} per side are needed."


def _values(pair: Pair) -> tuple[Floats, Floats]:
    base, head = (np.array(side.values if side else (), dtype=float) for side in (pair.base, pair.head))
    return base, head


def _scatter(found: Comparison, pair: Pair) -> Floats:
    """Return the scatter between launches, of the run or of a calibration, whichever is larger."""
    calibrated = (side.calibrated or 0.0 for side in (pair.base, pair.head) if side)
    return np.asarray(max(float(found.scatter), *calibrated))
