"""Table of docs/history.md: `python tests/support/history_noise.py` simulates what a history marks in known series.

The series are judged as in a history of one series, by the code that judges it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from arvbench.harness.check.rule import Rule
from arvbench.harness.history.change_points import draws_for, drifts, find_splits, with_effect

DRAWS = 1_000
NOISES: Mapping[str, Callable[[np.random.Generator, int], NDArray[np.float64]]] = {
    "Gaussian 1.5 %": lambda rng, n: 1 + 0.015 * rng.standard_normal(n),
    "15 % of points 15 % slower": lambda rng, n: (1 + 0.015 * rng.standard_normal(n)) * _often(rng, n, 0.15, 1.15),
    "two modes, 12 % apart": lambda rng, n: (1 + 0.01 * rng.standard_normal(n)) * _often(rng, n, 0.5, 1.12),
}
SHAPES: Mapping[str, Callable[[int], NDArray[np.float64]]] = {
    "no change": np.ones,
    "one outlier, 50 %": lambda n: np.where(np.arange(n) == n // 2, 1.5, 1.0),
    "one step, 10 %": lambda n: np.where(np.arange(n) >= n // 2, 1.1, 1.0),
    "two steps, 10 % each": lambda n: 1.1 ** (np.arange(n) * 3 // n),
    "there and back, 10 %": lambda n: np.where(np.arange(n) * 3 // n == 1, 1.1, 1.0),
    "drift of 10 %": lambda n: 1 + 0.1 * np.arange(n) / n,
    "5 slow commits at the end, 10 %": lambda n: np.where(np.arange(n) >= n - 5, 1.1, 1.0),
}
LENGTHS = (20, 40, 100)


def _often(rng: np.random.Generator, n: int, share: float, factor: float) -> NDArray[np.float64]:
    return np.where(rng.random(n) < share, factor, 1.0)


def judged(values: list[float], family: int = 1) -> tuple[list[int], bool]:
    """Return the places of the change points of one series of `family`, and whether it drifts."""
    rule = Rule()
    level = rule.level / family
    found = find_splits(values, level=rule.level, draws=draws_for(level))
    splits = with_effect(values, found.splits, rule.least_change) if found.p <= level else []
    if splits and drifts(values, splits):
        return [], True
    return [split.index for split in splits], False


def shares(noise: str, shape: str, length: int, *, draws: int = DRAWS, family: int = 1) -> dict[str, float]:
    """Return the shares of draws with no mark, as many change points as the shape has, others, and a drift.

    "at place" is the share of those with the right number whose places are off by one commit at most.
    """
    rng = np.random.default_rng([length, *map(ord, noise + shape)])
    clean = SHAPES[shape](length)
    true = [place for place in range(1, length) if clean[place] != clean[place - 1]] if "drift" not in shape else []
    true = [] if "outlier" in shape else true
    counts = {"none": 0, "right": 0, "other": 0, "drift": 0, "at place": 0}
    for _ in range(draws):
        places, drift = judged(list(NOISES[noise](rng, length) * clean), family)
        if drift:
            counts["drift"] += 1
        elif not places:
            counts["none"] += 1
        elif len(places) == len(true):
            counts["right"] += 1
            counts["at place"] += all(abs(a - b) <= 1 for a, b in zip(places, true, strict=True))
        else:
            counts["other"] += 1
    right = counts["right"]
    return {name: count / draws for name, count in counts.items() if name != "at place"} | {
        "at place": counts["at place"] / right if right else float("nan")
    }


def table(draws: int = DRAWS) -> str:
    """Return the table in Markdown."""
    lines = ["| noise | series | " + " | ".join(f"{length} commits" for length in LENGTHS) + " |", "|---" * 5 + "|"]
    for noise in NOISES:
        for shape in SHAPES:
            cells = []
            for length in LENGTHS:
                found = shares(noise, shape, length, draws=draws)
                place = f" ({found['at place']:.0%} in place)" if found["right"] else ""
                names = {"none": "none", "right": "all", "other": "other", "drift": "drift"}
                words = [
                    f"{name} {found[key]:.1%}" + place * (key == "right") for key, name in names.items() if found[key]
                ]
                cells.append(", ".join(words))
            lines.append(f"| {noise} | {shape} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(table(int(sys.argv[1]) if len(sys.argv) > 1 else DRAWS))
