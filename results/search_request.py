"""Request for a search: the settings to try, what is looked for, and how many points may be tried."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator

from arvbench.errors import near_misses, shown
from arvbench.numbers import refuse_booleans
from arvbench.results.machine import Frozen
from arvbench.results.metrics import METRICS, label_of

MOST_POINTS: Final = 10_000
FIELDS: Final = ("batch", "cache", "method", "dtype", "backend", "threads")
"""Keys of a case that a search may change, besides those of `settings`."""
_MEASURED: Final[Mapping[str, Literal["lower", "higher"]]] = {
    "images/s": "higher",
    "latency": "lower",
    "memory": "lower",
    "cache": "lower",
    "energy": "lower",
}
"""Objectives that every case measures, energy aside: throughput, time of a call, peak memory, live bytes of the cache
at their peak, net joules per image."""

Point = tuple[Any, ...]
"""A value for every searched key, in their order."""


class Objective(NamedTuple):
    """Value that a search looks for."""

    name: str
    """One of the measured ones, or the name of a metric."""
    protocol: str | None
    """Protocol of a metric; None where the case has one alone, and for other objectives."""
    better: Literal["lower", "higher"]
    is_metric: bool


def read_objective(text: str) -> Objective:
    """Read "images/s", "fid" or "adm-v1:fid". Raises ValueError for a name that is none, or has no better end."""
    if text in _MEASURED:
        return Objective(text, None, _MEASURED[text], is_metric=False)
    protocol, _, metric = text.rpartition(":")
    better = label_of(metric).better
    if better == "":
        known = [*_MEASURED, *(name for name, label in METRICS.items() if label.better)]
        raise ValueError(f"no objective {shown(text)}; {near_misses(metric, known)}")
    return Objective(metric, protocol or None, better, is_metric=True)


class Range(Frozen):
    """Evenly spaced numbers from `low` to `high` at most."""

    low: int | float
    high: int | float
    step: int | float | None = Field(default=None, gt=0)
    """Distance of two of them; None is 1, for whole numbers alone."""

    @field_validator("*", mode="before")
    @classmethod
    def _numbers(cls, value: Any, info: ValidationInfo) -> Any:
        return refuse_booleans(cls, value, info)

    @model_validator(mode="after")
    def _has_points(self) -> Range:
        numbers = (self.low, self.high, self.step or 1)
        if not all(map(math.isfinite, numbers)):
            raise ValueError("low, high and step are finite numbers")
        if self.low >= self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        if self.step is None and not (isinstance(self.low, int) and isinstance(self.high, int)):
            raise ValueError("numbers that are not whole need a step")
        if (self.high - self.low) / (self.step or 1) >= MOST_POINTS:
            raise ValueError(f"more than {MOST_POINTS:,} numbers")
        return self

    def values(self) -> tuple[int | float, ...]:
        """Return the numbers, those that are not whole rounded to 12 digits."""
        step = self.step or 1
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        numbers = [self.low + place * step for place in range(count)]
        return tuple(number if isinstance(number, int) else float(f"{number:.12g}") for number in numbers)


def _form(values: Any) -> str:
    return "list" if isinstance(values, list | tuple) else "range"


Values = Annotated[
    Annotated[tuple[str | int | float | bool | None, ...], Tag("list")] | Annotated[Range, Tag("range")],
    Discriminator(_form),
]
"""Values to try: a list, or a range."""


class SearchRequest(Frozen):
    """Search over settings of a case for the best value of an objective."""

    over: dict[str, Values] = Field(min_length=1)
    """Key, such as "batch" or "settings.cfg" -> its values, or a range of numbers."""
    objective: str
    budget: int = Field(ge=1, le=MOST_POINTS)
    """Most points to try."""
    confirm: bool = False
    """Measure the best point once more when all are tried, with new noise for its images."""
    number: int = Field(default=1, ge=1)
    """Number of the try that a record holds, from 1; of a confirmation, that of the try behind it."""
    tries: int = Field(default=0, ge=0)
    """Number of points that the search tries: the k of "best of k"; the suite counts them."""
    confirmation: bool = False
    """True in the record that confirms the best point."""

    @field_validator("budget", "number", "tries", mode="before")
    @classmethod
    def _no_booleans(cls, value: Any, info: ValidationInfo) -> Any:
        return refuse_booleans(cls, value, info)

    @field_validator("over", mode="before")
    @classmethod
    def _listed(cls, over: Any) -> Any:
        for key, values in over.items() if isinstance(over, dict) else ():
            if key not in FIELDS and not (isinstance(key, str) and key.startswith("settings.") and key[9:]):
                known = f"{', '.join(FIELDS)}, and settings.KEY"
                raise ValueError(f"{shown(key)} cannot be searched; those that can: {known}")
            if not isinstance(values, list | tuple | dict | Range):
                raise ValueError(f"{key}: write a list of values, or {{low: 1, high: 64}}")
            if isinstance(values, list | tuple):
                _check_values(key, values)
        return over

    @field_validator("objective")
    @classmethod
    def _known(cls, text: str) -> str:
        read_objective(text)
        return text

    @model_validator(mode="after")
    def _has_few_points(self) -> SearchRequest:
        if (points := math.prod(map(len, self.axes))) > MOST_POINTS:
            raise ValueError(f"{points:,} points; a search has at most {MOST_POINTS:,}")
        return self

    @cached_property
    def axes(self) -> tuple[tuple[Any, ...], ...]:
        """Values of every key: numbers in ascending order, others as listed."""
        return tuple(
            _ordered(values.values() if isinstance(values, Range) else values) for values in self.over.values()
        )

    @property
    def most(self) -> int:
        """Number of points that are tried: the budget, or all there are."""
        return min(self.budget, math.prod(map(len, self.axes)))

    def point_of(self, case: Mapping[str, Any]) -> Point:
        """Return the values of the searched keys in a case, which is given by its fields."""
        return tuple(
            case["settings"].get(key.removeprefix("settings.")) if key not in FIELDS else case.get(key)
            for key in self.over
        )


def without_point(case: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a case without what differs between the tries of its search; as they are without one."""
    if case.get("search") is None:
        return case
    over = case["search"]["over"]
    settings = {key: value for key, value in case["settings"].items() if f"settings.{key}" not in over}
    changes: dict[str, Any] = {
        "settings": settings,
        "search": {key: case["search"][key] for key in ("over", "objective")},
    }
    if case["search"]["confirmation"] and case.get("quality"):
        changes["quality"] = case["quality"] | {"seed": earlier_seed(case["quality"]["seed"])}
    return {key: value for key, value in case.items() if key not in over} | changes


def later_seed(seed: int) -> int:
    """Return the seed with which images of a confirmation are drawn: the next one, behind the largest the smallest."""
    return -(2**63) if seed == 2**63 - 1 else seed + 1


def earlier_seed(seed: int) -> int:
    """Return the seed of which a seed is the later one."""
    return 2**63 - 1 if seed == -(2**63) else seed - 1


def _check_values(key: str, values: Sequence[Any]) -> None:
    """Raise ValueError for a list without values, and for values that are no settings or stand in it twice."""
    if not values:
        raise ValueError(f"{key}: an empty list has no value to try")
    for place, value in enumerate(values):
        if not isinstance(value, str | int | float | bool | None):
            raise ValueError(f"{key}: {shown(value)} is no number, text, true or false")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{key}: {value} is no finite number")
        if value in values[:place]:
            raise ValueError(f"{key}: {shown(value)} is listed twice")


def _ordered(values: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(sorted(values)) if all(map(is_number, values)) else tuple(values)


def is_number(value: Any) -> bool:
    """Return whether a value is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)
