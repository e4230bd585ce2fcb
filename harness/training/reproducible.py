"""Training that gives the same weights again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def reproducible(seed: int, *, threads: int = 1) -> Iterator[None]:
    """Seed the global generators, fix the threads, use deterministic convolutions; restore all of it afterwards.

    The number of threads is part of the result, because it decides the order of parallel sums.
    """
    before = torch.get_num_threads()
    with torch.random.fork_rng(), torch.backends.cudnn.flags(deterministic=True, benchmark=False, allow_tf32=False):
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
