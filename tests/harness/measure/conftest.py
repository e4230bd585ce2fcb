"""Samplers of the demo model with random weights: loaded once, never changed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from arvbench.adapters import load_sampler
from arvbench.adapters.base import Sampler


@pytest.fixture(scope="session")
def reference() -> Sampler:
    return load_sampler("demo/var", weights="random:0", backend="reference")


@pytest.fixture(scope="session")
def optimized() -> Sampler:
    return load_sampler("demo/var", weights="random:0", backend="optimized")


@pytest.fixture(autouse=True)
def _one_thread(_two_threads: None) -> Iterator[None]:
    """These tests call small models very often: threads that wait for each other would cost more than they help."""
    torch.set_num_threads(1)
    yield
