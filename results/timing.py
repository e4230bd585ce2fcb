"""Times of the sampling calls of one launch: those before the timed ones, and the timed ones.

Units    _ns nanoseconds
"""

from __future__ import annotations

from typing import Literal

from arvbench.results.machine import Frozen


class Timing(Frozen):
    """Raw times of one scope, in the order taken; warm-up not included."""

    scope: str
    """"step[i]", "tokens" (the autoregressive loop), "decode" or "images" (labels in, uint8 images out)."""
    samples_ns: tuple[int, ...]
    images: int
    """Images per sample."""
    forward_rows: int
    """Transformer rows per sample; guidance doubles images. 0 for decode."""
    clock: Literal["wall", "cuda-event"]


class WarmUp(Frozen):
    """Calls before the timed ones."""

    samples_ns: tuple[int, ...]
    """Times of the warm-up calls, scope images."""
    steady: bool
    """True if the last three calls agreed before `max_warmup` was reached, and the last six calls, timed ones included,
    show no trend. Records from before 2026-11-29: agreement alone, within 5 % or 5 ms.
    """
