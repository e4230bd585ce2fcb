"""Most likely cause of a change between two runs.

machine   another hardware class, or fixed work that no commit changes moved as well
noise     within what launches of one source differ by
method    the way in which the numbers were taken differs: harness, libraries, repeats
code      nothing but the source of samplers and kernels differs
unknown   the records do not tell: launches too few, one source on both sides, or a harness that is not recorded
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from arvbench.harness.check.pairing import CasePair
from arvbench.results.schema import Record
from arvbench.results.verdict import Cause, Change, Verdict

_METHOD: Final[Mapping[str, Callable[[Record], Any]]] = {
    "harness": lambda record: record.environment.method_sha256,
    "libraries": lambda record: record.environment.libraries,
    "Python": lambda record: record.environment.python,
    "CUDA": lambda record: record.environment.cuda,
    "TF32": lambda record: record.environment.tf32,
    "repeats": lambda record: record.case.repeats,
    "warm-up": lambda record: record.case.max_warmup,
    "images of the quality numbers": lambda record: record.case.quality and record.case.quality.images,
}
"""Parts of the method: two records that share all of them took their numbers in one way."""


def with_cause(change: Change, pair: CasePair) -> Change:
    """Return the change with its cause, and with the parts of the method that differ where that is it."""
    cause, method = _cause(change, pair), method_differences(pair)
    reason = f"{change.reason} Different: {', '.join(method)}." if cause is Cause.METHOD else change.reason
    return change.model_copy(update={"cause": cause, "reason": reason})


def method_differences(pair: CasePair) -> list[str]:
    """Name the parts of the method in which the two runs of a case differ."""
    base, head = pair.base.records[0], pair.head.records[0]
    return [name for name, part in _METHOD.items() if part(base) != part(head)]


def _cause(change: Change, pair: CasePair) -> Cause | None:
    """Return the cause; None for numbers that are equal."""
    if change.verdict is Verdict.MACHINE or not pair.one_machine:
        return Cause.MACHINE
    if change.verdict is Verdict.UNUSABLE:
        return Cause.UNKNOWN
    if change.ratio == 1:
        return None
    if change.verdict is Verdict.PASS:
        return Cause.NOISE
    if change.verdict is Verdict.INCONCLUSIVE:
        return Cause.NOISE if _within_noise(change) else Cause.UNKNOWN
    if method_differences(pair):
        return Cause.METHOD
    base, head = (side.records[0].environment for side in (pair.base, pair.head))
    told = base.method_sha256 is not None and base.source_sha256 != head.source_sha256
    return Cause.CODE if told else Cause.UNKNOWN


def _within_noise(change: Change) -> bool:
    """Return whether a change is smaller than the smallest that could be found."""
    if change.ratio is None or change.smallest_detectable is None or change.ratio <= 0:
        return False
    return max(change.ratio, 1 / change.ratio) - 1 < change.smallest_detectable
