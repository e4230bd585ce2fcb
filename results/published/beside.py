"""Published numbers that may stand beside those of a record, and what makes the two unlike.

A number is compared only where model, size, settings and protocol are those of the source; otherwise the differences
are named, each by a word of the closed list of causes, and no deviation is made.

Units    milliseconds per call for times, images per second for throughput; quality in its own
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from math import log10
from typing import Literal, NamedTuple

from arvbench.results.published.tables import (
    NOT_STATED,
    Printed,
    QualityRow,
    SpeedRow,
    published_names,
    quality_rows,
    speed_rows,
)
from arvbench.results.schema import Measured, Record, Setup
from arvbench.results.statistics import find_timing, images_per_second, nanoseconds

Cause = Literal[
    "weights", "resolution", "hardware", "batch", "dtype", "decode counted", "cfg", "settings", "protocol", "samples",
    "warm-up", "sync", "autocast", "reference",
]  # fmt: skip
"""Difference between a published and a measured number, or its likely cause where none is known."""
OFFICIAL_SAMPLES = 50_000
_UNITS = {"s": 1e3, "img/s": 1.0, "it/s (=img/s)": 1.0}
"""Unit that can be compared -> factor to milliseconds or images per second."""
_TIMES = ("time", "latency", "latency per batch", "time per image")
_PROTOCOLS = {
    "adm-v1": ("ADM evaluator", "OpenAI/ADM"),
    "torch-fidelity-adm": ("torch-fidelity with ADM stats",),
}
"""Protocol -> the first words of sources whose numbers are of it."""
_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


class Pair(NamedTuple):
    """A measured number and a published one."""

    name: str
    """Metric, such as "fid" or "throughput"."""
    unit: str
    measured: float
    published: float
    rounding: float
    """Half a unit of the last digit that was published."""
    interval: tuple[float, float] | None
    """95 % interval of the measured number."""
    seen: str
    source: str
    unlike: tuple[Cause, ...]
    """Known differences, the gravest first; empty for numbers that may be compared."""

    @property
    def published_text(self) -> str:
        """Return the published number with the decimals that were published."""
        return f"{self.published:.{max(0, round(-log10(2 * self.rounding)))}f}"

    @property
    def deviation(self) -> float | None:
        """Measured over published, less 1; None for numbers that are unlike."""
        return None if self.unlike else self.measured / self.published - 1

    @property
    def agrees(self) -> bool:
        """True when the published number lies within its rounding of the measured one or of its interval."""
        low, high = self.interval or (self.measured, self.measured)
        return low - self.rounding <= self.published <= high + self.rounding

    @property
    def likely(self) -> Cause | None:
        """Likely cause of a deviation: what the source does not state; None for numbers that agree or are unlike."""
        if self.unlike or self.agrees:
            return None
        return "warm-up" if self.unit in ("ms", "img/s") else "reference"


def pairs_of(record: Record, outcome: Measured, *, only_alike: bool = False) -> Iterator[Pair]:
    """Yield every published number of the record's model for which the record has one of the same kind; with
    `only_alike` those that may be compared.
    """
    if record.case.method is not None or any(not part.startswith("dtype") for part in outcome.setup.lossy or ()):
        return
    quality, speeds = _published_of(record.case.model)
    for row, metrics in quality:
        sampled = tuple(_unlike_sampling(record, outcome.setup, row))
        if not (only_alike and sampled):
            yield from _quality_pairs(outcome, row, metrics, sampled, only_alike)
    for speed in speeds:
        unlike = tuple(_unlike_speed(record, outcome.setup, speed))
        if not (only_alike and unlike) and (pair := _speed_pair(outcome, speed, unlike)) is not None:
            yield pair


class _Number(NamedTuple):
    """A published number."""

    value: float
    rounding: float


@cache
def _published_of(
    model: str,
) -> tuple[tuple[tuple[QualityRow, Mapping[str, _Number]], ...], tuple[SpeedRow, ...]]:
    """Return the published rows of a model: those of quality with their values by metric, and the times and rates."""
    names = published_names().get(model, ())
    return (
        tuple((row, _numbers(row)) for row in quality_rows() if row.model in names),
        tuple(row for row in speed_rows() if row.model in names and _is_time_or_rate(row)),
    )


def _numbers(row: QualityRow) -> dict[str, _Number]:
    """Return the values of a row by metric, but for zeros, which nothing can be divided by."""
    return {metric: _Number(each.value, each.rounding) for metric, each in row.metrics.items() if each.value != 0}


def _is_time_or_rate(row: SpeedRow) -> bool:
    kind = row.metric in _TIMES if row.unit == "s" else row.metric == "throughput" and row.unit in _UNITS
    return kind and row.number is not None


def _quality_pairs(
    outcome: Measured, row: QualityRow, metrics: Mapping[str, _Number], sampled: tuple[Cause, ...], only_alike: bool
) -> Iterator[Pair]:
    seen, source, protocol = row.seen, row.source, row.metric_protocol
    for number in outcome.quality:
        if (published := metrics.get(number.metric)) is not None:
            unlike = sampled + _unlike_evaluation(number.protocol_name or "", number.n_samples, protocol)
            if not (only_alike and unlike):
                yield Pair(number.metric, "", number.value, *published, number.interval, seen, source, unlike)


def _unlike_sampling(record: Record, setup: Setup, row: QualityRow) -> Iterator[Cause]:
    if setup.weights_random:
        yield "weights"
    if not _same_resolution(row.resolution, setup):
        yield "resolution"
    if _unequal(row.cfg, setup.settings.get("cfg")):
        yield "cfg"
    filters = _unequal(row.top_k, setup.settings.get("top_k") or 0) or _unequal(
        row.top_p, setup.settings.get("top_p") or 1
    )
    if record.case.recipe is None or setup.recipe_deviations or filters:
        yield "settings"


@lru_cache(maxsize=2**12)
def _unlike_evaluation(protocol: str, n_samples: int, stated: str) -> tuple[Cause, ...]:
    """Return what differs from an evaluation `stated` by the source; records share a few protocols."""
    unlike = not stated.startswith(_PROTOCOLS.get(protocol, ())) or "(inferred)" in stated
    causes: tuple[tuple[Cause, bool], ...] = (("protocol", unlike), ("samples", n_samples != OFFICIAL_SAMPLES))
    return tuple(cause for cause, differs in causes if differs)


def _speed_pair(outcome: Measured, row: SpeedRow, unlike: tuple[Cause, ...]) -> Pair | None:
    """Return the pair of a time or a throughput; None where the record has no time."""
    timing = find_timing(outcome, "tokens" if row.counts_vae_decode.startswith("no") else "images")
    if timing is None or timing.images < 1:
        return None
    if row.metric == "throughput":
        found, unit = images_per_second(timing), "img/s"
    else:
        found, unit = nanoseconds(timing).scaled(1e-6 / (timing.images if row.metric == "time per image" else 1)), "ms"
    if found is None:
        return None
    factor = _UNITS[row.unit]
    ends = None if found.low is None or found.high is None else (found.low, found.high)
    return Pair(
        name=row.metric,
        unit=unit,
        measured=found.value,
        published=Printed(row.value).value * factor,
        rounding=Printed(row.value).rounding * factor,
        interval=ends,
        seen=row.seen,
        source=row.source,
        unlike=unlike,
    )


def _unlike_speed(record: Record, setup: Setup, row: SpeedRow) -> Iterator[Cause]:
    if not _same_resolution(row.resolution, setup):
        yield "resolution"
    gpu, stated = record.environment.gpu, _stated_gpu(row.hardware)
    if gpu is None or stated is None or stated not in gpu.name.replace("RTX ", "RTX"):
        yield "hardware"
    if _not_equal(row.batch, record.case.batch):
        yield "batch"
    if _DTYPES.get(row.dtype) != record.case.dtype:
        yield "autocast" if "autocast" in row.dtype else "dtype"
    if not row.counts_vae_decode.startswith(("yes", "no")) or row.counts_vae_decode.startswith(NOT_STATED):
        yield "decode counted"
    if setup.settings_deviations:
        yield "settings"


@cache
def _stated_gpu(hardware: str) -> str | None:
    """Return the short name of a GPU, such as "A100", from the words of a source."""
    found = re.search(r"[A-Z]+\d+", hardware.replace("NVIDIA ", "").replace("RTX ", "RTX"))
    return found and found[0]


def _same_resolution(text: str, setup: Setup) -> bool:
    size = f"{setup.image_px}x{setup.image_width_px or setup.image_px}"
    return text in (size, f"{size} image", f"{size} model")


def _unequal(text: str, value: object) -> bool:
    """Return True where a stated number differs from a setting; what is not stated is left to the recipe."""
    return _stated(text) is not None and _not_equal(text, value)


def _not_equal(text: str, value: object) -> bool:
    stated = _stated(text)
    return stated is None or not isinstance(value, int | float) or stated != value


@cache
def _stated(text: str) -> float | None:
    """Return the number that a published table states; None for words. The tables have a few hundred texts."""
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else None
