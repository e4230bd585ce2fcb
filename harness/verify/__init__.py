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
    import torch
    from torch import Tensor

    from arvbench.harness.verify.fixture import Check, Fixture

    Replay = Callable[[Fixture, str, torch.device], Mapping[str, Tensor]]

REPLAYS: Registry[Replay] = Registry(
    "fixture kind",
    {
        "var": "arvbench.harness.verify.var:replay",
        "mvar": "arvbench.harness.verify.mvar:replay",
        "hmar": "arvbench.harness.verify.hmar:replay",
        "flexvar": "arvbench.harness.verify.flexvar:replay",
        "llamagen": "arvbench.harness.verify.token_grid:replay",
        "nar": "arvbench.harness.verify.token_grid:replay",
        "par": "arvbench.harness.verify.token_grid:replay",
        "sampler_unit": "arvbench.harness.verify.sampler_unit:replay",
    },
)


def verify(path: Path, *, backend: str = "reference", device: str = "cpu") -> list[Check]:
    """Replay one fixture with `backend` on `device` and return one check per recorded output.

    Raises FixtureError for a fixture that cannot be used, HostError where there is no such device.
    """
    from arvbench.adapters.loading import usable_device
    from arvbench.errors import CheckpointError, UnknownName
    from arvbench.harness.verify.fixture import FixtureError, compare, read_fixture

    target = usable_device(device)
    fixture = read_fixture(path)
    try:
        return compare(fixture, REPLAYS[fixture.kind](fixture, backend, target))
    except (UnknownName, CheckpointError) as error:
        raise FixtureError(f"{path} cannot be replayed: {error}") from error
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, RuntimeError) as error:
        # Sizes, names and types come from the fixture; what it leaves out or gets wrong shows here.
        reason = " ".join(str(error).split())
        raise FixtureError(f"{path} cannot be replayed: {type(error).__name__}: {reason}") from error
