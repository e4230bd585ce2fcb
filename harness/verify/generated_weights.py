"""Weights and noise generated from their names: the recipe of the compact fixtures.

Source   the fixtures' own description, recipe v1
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence

import numpy as np

MOST_VALUES = 2**30
"""Values of one fixture: 4 GiB of float32."""


def check_sizes(shapes: Iterable[Sequence[int]]) -> None:
    """Raise ValueError for shapes that together have more than `MOST_VALUES` values, before any is made."""
    if (count := sum(map(math.prod, shapes))) > MOST_VALUES:
        raise ValueError(f"its recipe makes {count:,} values, and at most {MOST_VALUES:,} are made")


def recipe_v1(seed_string: str, name: str, shape: Sequence[int], low: float, high: float) -> np.ndarray:
    """Return uniform float32 values in [low, high) of `shape`, decided by `seed_string` and `name` alone."""
    digest = hashlib.sha256(f"{seed_string}:{name}".encode()).digest()
    bits = np.random.PCG64(int.from_bytes(digest[:16], "little"))
    u = np.random.Generator(bits).random(size=tuple(shape), dtype=np.float32)
    # Multiply, then add, each rounded to float32; `high - low` is computed in double first.
    u *= np.float32(high - low)
    u += np.float32(low)
    return u


def normal_v1(seed_string: str, name: str, shape: Sequence[int]) -> np.ndarray:
    """Return standard normal float32 values of `shape`, decided by `seed_string` and `name` alone."""
    u = recipe_v1(seed_string, name, (2, *shape), 0.0, 1.0).astype(np.float64)
    normal: np.ndarray = np.sqrt(-2.0 * np.log(1.0 - u[0])) * np.cos(2.0 * np.pi * u[1])
    return normal.astype(np.float32)
