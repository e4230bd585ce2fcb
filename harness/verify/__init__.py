"""Verification: replay what the official code produced, and compare.

A fixture holds a small model (or the recipe of its weights), its inputs and the outputs of the official code. Families
are added with one line in `REPLAYS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from arvbench.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from arvbench.harness.verify.fixture import Check, Fixture

    Replay = Callable[[Fixture, str], Mapping[str, Tensor]]

REPLAYS: Registry[Replay] = Registry(
    "fixture kind",
    {
        "var": "arvbench.harness.verify.var:replay",
        "sampler_unit": "arvbench.harness.verify.sampler_unit:replay",
    },
)


def verify(path: Path, *, backend: str = "reference") -> list[Check]:
    """Replay one fixture with `backend` and return one check per recorded output.

    Raises FixtureError for a fixture that cannot be used.
    """
    from arvbench.harness.verify.fixture import compare, read_fixture

    fixture = read_fixture(path)
    return compare(fixture, REPLAYS[fixture.kind](fixture, backend))
