"""Changes of a check, each with the sentence that says why."""

from __future__ import annotations

import math

import numpy as np

from arvbench.harness.check.gated import Judgement, Pair, Series
from arvbench.harness.check.launch_tests import Comparison, ratio_interval, slow_share
from arvbench.harness.check.rule import Rule
from arvbench.results.verdict import Change, Verdict

_WORDS = {"time": ("slower", "faster"), "memory": ("more", "less"), "cache": ("more", "less")}
"""Kind -> words for a larger and a smaller value."""


def percent(change: float) -> str:
    """Write a relative change without its sign, to two digits or three."""
    share = 100 * abs(change)
    digits = 0 if share >= 99.5 else 1 if share >= 0.95 else 2
    return "any size" if math.isinf(share) else f"{share:.{digits}f} %"


def unusable_change(pair: Pair, fault: str) -> Change:
    """Return the change of a number that nothing can be said about."""
    return change_of(pair, Verdict.UNUSABLE, fault)


def steady_change(pair: Pair, rule: Rule) -> Change | None:
    """Judge a number without statistics: an exact one, or a quality number that is equal seed by seed.

    None for a number that varies: by its kind, or because its launches disagree although it should be exact.
    """
    base, head = pair.values
    if pair.shown.judgement is Judgement.SEEDS:
        return change_of(pair, Verdict.PASS, "Equal on both sides, seed by seed.", ratio=1.0) if base == head else None
    if pair.shown.judgement is Judgement.LAUNCHES:
        return None
    in_bytes = pair.shown.unit == "bytes"
    counts = rule.exact_change if in_bytes else 0.0
    if in_bytes and any(max(side) > min(side) * (1 + counts) for side in (base, head)):
        return None
    worst = max if pair.shown.lower_is_better else min
    before, after = worst(base), worst(head)
    ratio = after / before if before else None
    if abs(after - before) <= counts * before:
        return change_of(pair, Verdict.PASS, "Equal on both sides.", ratio=ratio)
    worse = (after > before) == pair.shown.lower_is_better
    verdict = Verdict.REGRESSION if worse else Verdict.IMPROVEMENT
    return change_of(pair, verdict, f"{_moved(pair.shown, before, after)}; the number is exact.", ratio=ratio)


def launches_change(pair: Pair, found: Comparison, verdict: Verdict, *, p: float, seen: float, rule: Rule) -> Change:
    """Return the change of a number that varies from launch to launch; `p` adjusted, `seen` its detectable change."""
    base, head = (np.array(values) for values in pair.values)
    shares = (slow_share(base, rule), slow_share(head, rule)) if found.two_modes else None
    return change_of(
        pair,
        verdict,
        _reason(pair, found, verdict, p, seen, shares),
        ratio=float(found.ratio),
        interval=ratio_interval(base, head),
        smallest_detectable=seen if math.isfinite(seen) else None,
        p=p,
        slow_share=shares,
    )


def _reason(
    pair: Pair, found: Comparison, verdict: Verdict, p: float, seen: float, shares: tuple[float, float] | None
) -> str:
    base, head = pair.values
    counts = f"{len(base)} and {len(head)} launches"
    modes = ""
    if shares:
        slow_base, slow_head = (f"{100 * share:.0f} %" for share in shares)
        modes = f" The launches have two modes; slow are {slow_base} of base and {slow_head} of head."
    if verdict is Verdict.MACHINE:
        return f"The machine moved, so that a time says nothing about the code.{modes}"
    if verdict is Verdict.INCONCLUSIVE:
        return f"Only changes of {percent(seen)} or more would be found in {counts}.{modes}"
    if verdict is Verdict.PASS:
        return f"No change beyond noise; {percent(seen)} would be found in {counts}.{modes}"
    if found.by_floors:
        word = _word(pair.shown, float(found.floor_ratio))
        return f"The second-fastest of {counts} is {percent(float(found.floor_ratio) - 1)} {word} (p = {p:.2g}).{modes}"
    return f"{_moved(pair.shown, 1.0, float(found.ratio))} in {counts} (p = {p:.2g}).{modes}"


def _moved(series: Series, before: float, after: float) -> str:
    by = percent(after / before - 1) if before else "from 0"
    return f"{by} {_word(series, after / before if before else math.inf)}"


def _word(series: Series, ratio: float) -> str:
    larger, smaller = _WORDS.get(series.kind, ("higher", "lower"))
    return larger if ratio > 1 else smaller


def change_of(pair: Pair, verdict: Verdict, reason: str, **measured: object) -> Change:
    """Return the change of a number with its verdict; `measured` are the other fields of a `Change`."""
    series, (base, head) = pair.shown, pair.values
    return Change.model_validate(
        {
            "case": series.case,
            "number": series.number,
            "kind": series.kind,
            "unit": series.unit,
            "lower_is_better": series.lower_is_better,
            "base": base,
            "head": head,
            "verdict": verdict,
            "reason": reason[0].upper() + reason[1:],
            **measured,
        }
    )
