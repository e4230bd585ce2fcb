"""Training that gives the same weights again, on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def reproducible(seed: int, *, threads: int = 1) -> Iterator[None]:
    """Seed the global generators, fix the threads, use deterministic convolutions; restore all of it afterwards.

    On the CPU the same seed and threads then give the same weights (threads decide the order of parallel sums). On a
    GPU some gradients are summed in no fixed order: results are close, not equal.
    """
    before = torch.get_num_threads()
    cudnn = torch.backends.cudnn
    convolutions = cudnn.flags(enabled=cudnn.enabled, deterministic=True, benchmark=False, allow_tf32=False)
    with torch.random.fork_rng(), convolutions:
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
