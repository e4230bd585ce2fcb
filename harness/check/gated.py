"""A gated number: its values of one side, one per launch, and how it is judged.

Units    of the number itself: ns, bytes, or a metric's own
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import isfinite
from typing import Literal

from arvbench.errors import ContractError

Kind = Literal["time", "memory", "cache", "quality"]
Key = tuple[str, str]
"""(case, number)."""


class Judgement(StrEnum):
    """Way in which a number is judged."""

    LAUNCHES = "launches"
    """Varies from launch to launch: an exact test on launches."""
    EXACT = "exact"
    """The same in every launch: no statistics."""
    SEEDS = "seeds"
    """Varies with the run seed of the images: a window of means, one value per seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One gated number of one side."""

    case: str
    """Name of the case, as in the suite."""
    number: str
    """Scope of a time, field of memory, or metric with its protocol."""
    kind: Kind
    unit: str
    basis: str
    """Everything else that two sides must share, such as images per call and clock, or protocol id and samples."""
    values: tuple[float, ...]
    """One per launch, or per run seed, in the order measured."""
    judgement: Judgement = Judgement.LAUNCHES
    lower_is_better: bool = True
    floor: float = 0.0
    """Absolute change below which nothing counts, in the unit."""
    may_be_zero: bool = False
    """True for a share, which 0 is a value of."""
    calibrated: float | None = None
    """Scatter between launches of a calibration, relative; the larger one of this and the run's own counts."""

    @property
    def key(self) -> Key:
        return (self.case, self.number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One gated number on both sides; None is a side that lacks it."""

    base: Series | None
    head: Series | None

    @property
    def shown(self) -> Series:
        """The side that says what the number is; head's where both have it."""
        found = self.head or self.base
        if found is None:
            raise ContractError("a pair without sides")
        return found

    @property
    def key(self) -> Key:
        return self.shown.key

    @property
    def values(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Values of base and of head; none for a side that lacks the number."""
        return (self.base.values if self.base else (), self.head.values if self.head else ())

    def fault(self) -> str | None:
        """Return why nothing can be said about the number, as a sentence; None when it can be judged."""
        if self.base is None or self.head is None:
            return f"{'base' if self.base is None else 'head'} does not have this number."
        for name, side in (("base", self.base), ("head", self.head)):
            if not side.values:
                return f"{name} does not have this number."
            for value in side.values:
                if not isfinite(value) or value < 0 or (value == 0 and not side.may_be_zero):
                    return f"{name} has the value {value:g}, which is no measurement."
        for name in ("unit", "kind", "judgement", "lower_is_better", "basis"):
            of_base, of_head = getattr(self.base, name), getattr(self.head, name)
            if of_base != of_head:
                what = "scope" if name == "basis" else name.replace("_", " ")
                return f"the {what} changed: {of_base} in base, {of_head} in head."
        return None


def pairs_of(base: Iterable[Series], head: Iterable[Series]) -> tuple[Pair, ...]:
    """Join the numbers of both sides, in head's order, those that only base has last."""
    of_base, of_head = _by_key(base, "base"), _by_key(head, "head")
    return tuple(Pair(base=of_base.get(key), head=of_head.get(key)) for key in dict.fromkeys((*of_head, *of_base)))


def _by_key(series: Iterable[Series], side: str) -> dict[Key, Series]:
    found: dict[Key, Series] = {}
    for one in series:
        if one.key in found:
            raise ContractError(f"{side} has {one.number} of {one.case} twice")
        found[one.key] = one
    return found


def keep(series: Sequence[Series], keys: Iterable[Key]) -> tuple[Series, ...]:
    """Select the numbers with these keys."""
    wanted = set(keys)
    return tuple(one for one in series if one.key in wanted)
