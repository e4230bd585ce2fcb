"""Reproducible training: equal weights on the CPU, and the provenance of the written files."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from arvbench.adapters.checkpoints import sha256_of


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


def provenance(*files: Path) -> dict[str, Any]:
    """Return the last part of a training's record: versions, and the digest of every file."""
    return {
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in ("torch", "numpy", "scikit-learn", "safetensors")},
        "sha256": {path.name: sha256_of(path) for path in files},
    }
