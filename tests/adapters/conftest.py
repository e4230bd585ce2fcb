"""Fixtures of tests that run every form of a family."""

from __future__ import annotations

import pytest
from sampling_calls import Steps, draw


@pytest.fixture(scope="module")
def heard(built):
    """The steps of `drawn`, when it is drawn; `built` is a module's sampler with its settings."""
    return Steps()


@pytest.fixture(scope="module")
def drawn(built, heard):
    """A call of the form, which tests share."""
    return draw(built[0], settings=built[1], observer=heard)
