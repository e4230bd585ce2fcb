"""Formatting of numbers and names, common to all tables and figures.

Units    MiB 2**20 bytes, GiB 2**30 bytes; ms milliseconds
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from arvbench.reports.table import NOTHING, Cell, Tone
from arvbench.results.statistics import Estimate, coverage

MIB = 2**20
GIB = 2**30
MEMORY_SOURCES = {"cuda-allocator": "CUDA allocator", "process-rss": "process RSS"}
"""Sources of memory numbers; numbers of different sources are never compared."""
EN_DASH = "\N{EN DASH}"


def counted_cores(value: float) -> float:
    """Return a number of busy cores, 0 below a thousandth: the system counts in hundredths of a second."""
    return value if value >= 0.001 else 0.0


@lru_cache(maxsize=2**16)
def significant(value: float, digits: int = 3) -> str:
    """Format with at least `digits` significant digits; whole numbers below a million keep all digits.

    One number stands in several tables, and rows share settings and sizes.
    """
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else ("∞" if value > 0 else "-∞")
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    if magnitude < -4 or magnitude >= 6:
        return scientific(value, digits)
    decimals = digits - 1 - magnitude
    return f"{value:.{decimals}f}" if decimals > 0 else f"{value:.0f}"


def scientific(value: float, digits: int = 2) -> str:
    """Format as 1.2e-06, for differences and tolerances, whose magnitude matters."""
    if value == 0 or not math.isfinite(value):
        return significant(value)
    return f"{value:.{digits - 1}e}"


def plain(text: object) -> str:
    """Put text on one line without control or direction characters, so that it can stand in any output."""
    text = str(text)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ("�" if not char.isspace() else " ") for char in text)


def shorten(text: object, length: int) -> str:
    """Return `plain(text)`, cut in the middle when longer than `length`: both ends distinguish names."""
    text = plain(text)
    if len(text) <= length:
        return text
    head = (length - 1) * 2 // 3
    return f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"


def _sort_key(value: float) -> float | None:
    """Return the number itself; None, which sorts behind all numbers, for one that is not finite."""
    return float(value) if math.isfinite(value) else None


def number_cell(value: float | None, digits: int = 3) -> Cell:
    """Make a cell of `value`; None is an empty cell."""
    return NOTHING if value is None else Cell(significant(value, digits), "", _sort_key(value))


@lru_cache(maxsize=2**12)
def count_cell(value: int | None) -> Cell:
    """Make a cell of a whole number, all digits."""
    return NOTHING if value is None else Cell(text=f"{value:,}", sort=float(value))


def scientific_cell(value: float) -> Cell:
    """Make a cell of a value whose magnitude matters."""
    return Cell(text=scientific(value), sort=_sort_key(value))


def mib_cell(size_bytes: int | None) -> Cell:
    """Make a cell of bytes in MiB."""
    return number_cell(None if size_bytes is None else size_bytes / MIB)


def estimate_cell(estimate: Estimate | None) -> Cell:
    """Make a cell of a median with its interval."""
    if estimate is None:
        return NOTHING
    return Cell(significant(estimate.value), interval_text(estimate), estimate.value)


def interval_text(estimate: Estimate) -> str:
    """Format the interval with enough digits to distinguish its ends.

    The number of samples, or of launches where there are several, when they are too few for one.
    """
    if estimate.low is None or estimate.high is None:
        if estimate.launches > 1:
            return f"{estimate.launches} launches"
        return f"{estimate.samples} sample{'s' if estimate.samples != 1 else ''}"
    for digits in (3, 4, 5):
        low, high = significant(estimate.low, digits), significant(estimate.high, digits)
        if low != high:
            break
    return f"{low} {EN_DASH} {high}"


def interval_kind(estimate: Estimate) -> str:
    """Say what the interval of a median holds, and how often it covers the median: its true level."""
    launches, samples = estimate.launches, estimate.samples
    within, least = "calls within one process", percent(coverage(samples))
    if launches > 1:
        if estimate.level is None:
            return f"none for {launches} launches: their range would cover the median with {least}"
        return f"over {launches} launches, {percent(estimate.level)}"
    if estimate.level is None:
        return f"none for {samples} {within}: their range would cover their median with {least}"
    return f"over {samples} {within}, {percent(estimate.level)}"


def interval_kind_cell(estimate: Estimate) -> Cell:
    """Make a cell of `interval_kind`, short enough for a column beside the number of launches."""
    within = "" if estimate.launches > 1 else "within one process"
    if estimate.level is None:
        return Cell(text=f"none {within}".rstrip(), detail=f"range: {percent(coverage(estimate.samples))}", sort="none")
    text = within or "over launches"
    return Cell(text=text, detail=f"level: {percent(estimate.level)}", sort=text)


def percent(share: float) -> str:
    """Format a share as a percentage, without rounding it up to 100 %."""
    return f"{math.floor(share * 1e4 + 1e-9) / 100:g} %"


def text_cell(value: object | None, **options: Any) -> Cell:
    """Make a cell of text that sorts by itself; None and "" are an empty cell."""
    if value is None or value == "":
        return NOTHING
    text = plain(value)
    return Cell(text=text, sort=text, **options) if options else _text_cell(text)


@lru_cache(maxsize=2**12)
def _text_cell(text: str) -> Cell:
    """Make a cell of plain text; rows share most of theirs."""
    return Cell(text=text, sort=text)


def yes_no_cell(value: bool, *, good: bool | None = None) -> Cell:
    """Make a cell of yes or no; `good` is the desired answer, None when either is fine."""
    tone: Tone = "plain" if good is None else ("good" if value == good else "bad")
    return Cell(text="yes" if value else "no", sort="yes" if value else "no", tone=tone)


def mapping_text(mapping: Mapping[str, object]) -> str:
    """Format settings or versions as `name=value` pairs, sorted by name."""
    return ", ".join(f"{key}={value}" for key, value in sorted(mapping.items()))
