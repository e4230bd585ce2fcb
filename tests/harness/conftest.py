"""Samplers of the demo model with random weights, loaded once and never changed, and a tiny checkout."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from tiny_checkout import make_checkout

from arvbench.adapters import load_sampler
from arvbench.adapters.sampler import Sampler


@pytest.fixture(scope="session")
def reference() -> Sampler:
    return load_sampler("demo/var", weights="random:0", backend="reference")


@pytest.fixture(scope="session")
def optimized() -> Sampler:
    return load_sampler("demo/var", weights="random:0", backend="optimized")


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """The package of a tiny checkout; scratch folders are in tmp_path/tmp."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return make_checkout(tmp_path / "checkout")
