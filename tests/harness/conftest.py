"""Samplers of the demo model with random weights: loaded once, never changed."""

from __future__ import annotations

import pytest

from arvbench.adapters import load_sampler
from arvbench.adapters.sampler import Sampler


@pytest.fixture(scope="session")
def reference() -> Sampler:
    return load_sampler("demo/var", weights="random:0", backend="reference")


@pytest.fixture(scope="session")
def optimized() -> Sampler:
    return load_sampler("demo/var", weights="random:0", backend="optimized")
