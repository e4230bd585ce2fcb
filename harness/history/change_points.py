"""Change points of a series of values in order: E-divisive on ranks, with a permutation test.

A split of a segment has the energy statistic of Matteson and James (arXiv 1306.4933), computed on ranks, so that one
outlier counts no more than any other rank; ties are broken by a fixed seed. The best split of a segment is judged by
how often a random order of as many ranks has a better one: a distribution that depends on the number of values alone,
and is drawn once per length. Significant parts are split again. Then parts join whose medians differ by less than the
effect that matters, the smallest difference first.

A series that a straight line fits better than its steps drifts: then no place is to blame.

Shapes   R random orders, n values
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from statistics import median
from typing import Final

import numpy as np
from numpy.typing import NDArray

SEED: Final = 20_240_403
FEWEST_OF_SIDE: Final = 3
"""Values on either side of a change point."""
WINDOW: Final = 50
"""Most values that are split at once; longer series are read in windows that overlap by one half."""
NEWEST: Final = 20
"""Values at the end of a longer series that are a window of their own: what is new has few values, and matters most."""
_STEPS: Final = 200
"""Orders of a step in the middle, of which the clearest counts."""
_DRAWS_OF_PARTS: Final = 1_999
_MOST_DRAWS: Final = 200_000
_CELLS: Final = 2_000_000
"""Cells of the distance matrices that are in memory at once."""

_Ranks = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Split:
    """Place where a series changes: the first value of its second part."""

    index: int
    p: float
    """Chance that a random order of the segment has as good a split."""


@dataclass(frozen=True, slots=True)
class Found:
    """Change points of a series, and how sure it is that there is any."""

    splits: tuple[Split, ...]
    """Significant at the level of a part, in order; `confirmed` says whether the series counts at all."""
    p: float
    """Of the best first split, over all windows (Bonferroni, one half of the level for the newest values)."""


def draws_for(level: float) -> int:
    """Return how many random orders of a window tell a p at `level` from one above it."""
    return min(_MOST_DRAWS, max(_DRAWS_OF_PARTS, round(2 / level)))


def can_be_found(count: int, level: float) -> bool:
    """Return whether the clearest step in `count` values has a p of at most `level`."""
    if count < 2 * FEWEST_OF_SIDE:
        return False
    length = min(count, WINDOW)
    generator, half = np.random.default_rng(SEED), length // 2
    steps = [[*generator.permutation(half), *(half + generator.permutation(length - half))] for _ in range(_STEPS)]
    clearest = float(_best(np.array(steps, dtype=np.float32))[0].max())
    return _p(clearest, length, draws_for(level)) * max(_weights(count)) <= level


def find_splits(values: Sequence[float], *, level: float, draws: int = _DRAWS_OF_PARTS) -> Found:
    """Return the significant splits of `values`; parts are split at `level`, with `draws` random orders for the whole.

    Splits say nothing about effects: see `with_effect`.
    """
    if len(values) < 2 * FEWEST_OF_SIDE:
        return Found((), 1.0)
    ranks, found, least = _ranks(values), dict[int, Split](), 1.0
    for (begin, end), weight in zip(_windows(len(values)), _weights(len(values)), strict=True):
        least = min(least, weight * _split(ranks, begin, end, level, weight * draws, found))
    return Found(_apart(found), least)


def _windows(count: int) -> list[tuple[int, int]]:
    if count <= WINDOW:
        return [(0, count)]
    begins = list(range(0, count - WINDOW, WINDOW // 2))
    return [*((begin, begin + WINDOW) for begin in begins), (count - WINDOW, count), (count - NEWEST, count)]


def _weights(count: int) -> list[int]:
    """Return the factors that the p of the windows take."""
    others = len(_windows(count)) - 1
    return [*[2 * others] * others, 2] if others else [1]


def _split(
    ranks: NDArray[np.float32], begin: int, end: int, level: float, draws: int, found: dict[int, Split]
) -> float:
    """Split ranks[begin:end] as long as it is significant; return the p of the first split."""
    if end - begin < 2 * FEWEST_OF_SIDE:
        return 1.0
    part = ranks[begin:end].argsort().argsort().astype(np.float32)
    statistics, places = _best(part[None])
    p = _p(statistics[0], end - begin, draws)
    if p > level:
        return p
    index = begin + int(places[0])
    if index not in found or p < found[index].p:
        found[index] = Split(index, p)
    _split(ranks, begin, index, level, _DRAWS_OF_PARTS, found)
    _split(ranks, index, end, level, _DRAWS_OF_PARTS, found)
    return p


def _apart(found: dict[int, Split]) -> tuple[Split, ...]:
    """Return splits in order; of those that overlapping windows put closer than a side's fewest, the surest."""
    kept: list[Split] = []
    for split in sorted(found.values(), key=lambda split: (split.p, split.index)):
        if all(abs(split.index - other.index) >= FEWEST_OF_SIDE for other in kept):
            kept.append(split)
    return tuple(sorted(kept, key=lambda split: split.index))


def _ranks(values: Sequence[float]) -> _Ranks:
    """Return ranks 0..n-1; equal values in a random order of the fixed seed."""
    lots = np.random.default_rng(SEED).random(len(values))
    order = np.lexsort((lots, np.asarray(values, dtype=np.float64)))
    ranks = np.empty(len(values), dtype=np.float32)
    ranks[order] = np.arange(len(values), dtype=np.float32)
    return ranks


def _best(orders_Rn: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Return the statistic of the best split of every order, and its place.

    The second side may end before the order does, so that two changes do not hide each other.
    """
    length = orders_Rn.shape[1]
    sums = np.zeros((len(orders_Rn), length + 1, length + 1), dtype=np.float32)
    np.abs(orders_Rn[:, :, None] - orders_Rn[:, None, :]).cumsum(axis=1).cumsum(axis=2, out=sums[:, 1:, 1:])
    starts, across, factors, of_diagonal = _places(length)
    diagonal = sums[:, np.arange(length + 1), np.arange(length + 1)]
    statistics = sums.reshape(len(orders_Rn), -1)[:, across]
    statistics *= factors
    statistics += diagonal @ of_diagonal
    best = statistics.argmax(axis=1)
    return statistics[np.arange(len(orders_Rn)), best], starts[best]


@cache
def _places(length: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32], NDArray[np.float32]]:
    """Return the splits of `length` values: where the second sides begin, and how sums make their statistics.

    With l and r values on the sides, the statistic l r / (l + r) (2 B / l r - L / C(l, 2) - R / C(r, 2)) of the sums of
    distances between the sides (B) and within each (L, R) is linear in the sums of distances from the first value on:
    those up to begin and end (the flat places returned, with their factors), and those on the diagonal.
    """
    pairs = [
        (start, end)
        for start in range(FEWEST_OF_SIDE, length - FEWEST_OF_SIDE + 1)
        for end in range(start + FEWEST_OF_SIDE, length + 1)
    ]
    starts, ends = map(np.array, zip(*pairs, strict=True))
    left, right = starts.astype(np.float64), (ends - starts).astype(np.float64)
    between, within_left, within_right = (
        2 / (left + right), 2 * right / (left + right) / (left - 1), 2 * left / (left + right) / (right - 1)
    )  # fmt: skip
    of_diagonal = np.zeros((length + 1, len(pairs)))
    column = np.arange(len(pairs))
    of_diagonal[starts, column] = -between - within_left / 2 - within_right / 2
    of_diagonal[ends, column] -= within_right / 2
    flat = starts * (length + 1) + ends
    return starts, flat, (between + within_right).astype(np.float32), of_diagonal.astype(np.float32)


@cache
def _null(length: int, draws: int) -> NDArray[np.float32]:
    """Return the sorted statistics of random orders of `length` ranks."""
    generator = np.random.default_rng([SEED, length])
    found, batch = [], max(1, _CELLS // length**2)
    for begin in range(0, draws, batch):
        lots = generator.random((min(batch, draws - begin), length), dtype=np.float32)
        found.append(_best(lots.argsort(axis=1).astype(np.float32))[0])
    return np.sort(np.concatenate(found))


def _p(statistic: float, length: int, draws: int) -> float:
    """Return the share of random orders with at least this statistic, the given one counted as one of them."""
    null = _null(length, min(draws, _MOST_DRAWS))
    # Sums of one order in float32 differ in the last bits.
    better = len(null) - int(np.searchsorted(null, statistic * (1 - 1e-5), side="left"))
    return (1 + better) / (1 + len(null))


def with_effect(values: Sequence[float], splits: Sequence[Split], least: float, floor: float = 0.0) -> list[Split]:
    """Return the splits whose medians before and after differ by the share `least` and by `floor`.

    The smallest goes first, since its neighbours then have longer sides.
    """
    kept = list(splits)
    while kept:
        effects = [_effect(values, kept, place, floor) for place in range(len(kept))]
        smallest = min(range(len(kept)), key=lambda place: effects[place])
        if effects[smallest] >= least:
            break
        del kept[smallest]
    return kept


def sides(count: int, splits: Sequence[Split], place: int) -> tuple[slice, slice]:
    """Return the values before and after a split, up to its neighbours."""
    bounds = [0, *(split.index for split in splits), count]
    return slice(bounds[place], bounds[place + 1]), slice(bounds[place + 1], bounds[place + 2])


def _effect(values: Sequence[float], splits: Sequence[Split], place: int, floor: float) -> float:
    before, after = (median(values[side]) for side in sides(len(values), splits, place))
    change = abs(after - before)
    return 0.0 if change < floor or change == 0 else change / min(abs(before), abs(after)) if before and after else 1.0


def drifts(values: Sequence[float], splits: Sequence[Split]) -> bool:
    """Return whether a straight line fits a series better than the steps between its change points do."""
    series, line = np.asarray(values, dtype=np.float64), np.arange(len(values), dtype=np.float64)
    bounds = [0, *(split.index for split in splits), len(values)]
    parts = [series[begin:end] for begin, end in pairwise(bounds)]
    around_steps = sum(float(((part - part.mean()) ** 2).sum()) for part in parts)
    slope, offset = np.polyfit(line, series, 1)
    around_line = float(((series - slope * line - offset) ** 2).sum())
    # A line has two numbers; steps have a level for each part, and their places.
    count = len(values)
    return around_line / max(1, count - 2) < around_steps / max(1, count - 1 - 2 * len(splits))
