"""Measures of a field: values with their intervals, and when a difference between two of them is shown.

A difference is shown where the 95 % intervals are apart, and between exact numbers (planned bytes) where they differ.
A number without an interval shows no difference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Literal, NamedTuple

from arvbench.reports.numbers import MIB, significant
from arvbench.reports.tables.quality import (
    QualityKey,
    metric_label,
    protocol_names,
    quality_keys,
    quality_number,
)
from arvbench.results.metrics import HEADLINE_METRICS, label_of
from arvbench.results.schema import Measured, Record
from arvbench.results.statistics import find_timing, images_per_second

Better = Literal["higher", "lower"]


class Reading(NamedTuple):
    """Value of one record."""

    value: float
    low: float | None = None
    """None without an interval."""
    high: float | None = None
    exact: bool = False
    """A count, the same in every run."""

    def apart(self, other: Reading) -> bool:
        """Return whether a difference between the two is shown."""
        if self.exact and other.exact:
            return self.value != other.value
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return False
        return self.high < other.low or other.high < self.low


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One kind of number: records have a `Reading` of it, or none."""

    name: str
    """Stable name for data, such as "images/s" or "fid"."""
    label: str
    unit: str = ""
    better: Better
    protocol: str = ""
    """Name and id of the protocol of a quality number."""
    reading: Callable[[Record], Reading | None]

    def readings(self, models: Mapping[str, Record]) -> dict[str, Reading]:
        """Map the names of models to their readings; models without one are left out."""
        found = {name: self.reading(record) for name, record in models.items()}
        return {name: reading for name, reading in found.items() if reading is not None}

    def ahead(self, one: Reading, other: Reading) -> bool:
        """Return whether the value of `one` is better, be the difference shown or not."""
        return one.value > other.value if self.better == "higher" else one.value < other.value

    def best(self, readings: Mapping[str, Reading]) -> str | None:
        """Return the name with the best value, the first of equals; None for no readings."""
        if not readings:
            return None
        pick = max if self.better == "higher" else min
        return pick(readings, key=lambda name: readings[name].value)

    def leaders(self, readings: Mapping[str, Reading]) -> list[str]:
        """Return the best, then every other from which no difference is shown, the better first."""
        best = self.best(readings)
        if best is None:
            return []
        tied = [name for name, own in readings.items() if name != best and not own.apart(readings[best])]
        return [best, *sorted(tied, key=lambda name: readings[name].value, reverse=self.better == "higher")]

    def text(self, reading: Reading) -> str:
        return significant(reading.value)


def _speed(record: Record) -> Reading | None:
    timing = find_timing(record.outcome, "images") if isinstance(record.outcome, Measured) else None
    speed = None if timing is None else images_per_second(timing)
    return None if speed is None else Reading(speed.value, speed.low, speed.high)


def _cache(record: Record) -> Reading | None:
    held = record.outcome.memory.cache_live_bytes if isinstance(record.outcome, Measured) else None
    return None if held is None else Reading(held / MIB, exact=True)


SPEED = Measure(name="images/s", label="Throughput", unit="images/s", better="higher", reading=_speed)
CACHE = Measure(name="cache", label="Cache peak", unit="MiB", better="lower", reading=_cache)


def quality_measures(records: Sequence[Record]) -> list[Measure]:
    """Return a measure for each headline metric and protocol id that has a direction, in the order of columns."""
    names = protocol_names(records)
    return [
        _quality(key, names[key[1]], better)
        for key in quality_keys(records, HEADLINE_METRICS)
        if (better := label_of(key[0]).better)
    ]


def _quality(key: QualityKey, protocol: str, better: Better) -> Measure:
    def reading(record: Record) -> Reading | None:
        number = quality_number(record, key)
        if number is None or not isfinite(number.value):
            return None
        low, high = number.interval or (None, None)
        return Reading(number.value, low, high)

    return Measure(name=key[0], label=metric_label(key[0]), better=better, protocol=protocol, reading=reading)


def front(measures: Sequence[Measure], models: Mapping[str, Record]) -> list[str]:
    """Return the models that no other beats: those with all readings, in order."""
    return front_of([(measure, measure.readings(models)) for measure in measures])


def front_of(readings: Sequence[tuple[Measure, Mapping[str, Reading]]]) -> list[str]:
    """Return the front of at least one measure with its readings, in the order of the first.

    One beats another that is behind it in no measure, and from which it is apart in at least one.
    """
    complete = [name for name in readings[0][1] if all(name in of for _, of in readings)]

    def beats(one: str, other: str) -> bool:
        pairs = [(measure, of[one], of[other]) for measure, of in readings]
        behind = any(measure.ahead(theirs, own) for measure, own, theirs in pairs)
        return not behind and any(own.apart(theirs) for _, own, theirs in pairs)

    return [name for name in complete if not any(beats(other, name) for other in complete if other != name)]
