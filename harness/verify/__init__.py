"""Verification: replay recordings of the official code, and compare the outputs.

A fixture holds a small model (or the recipe of its weights), its inputs and the outputs of the official code.
`replays.REPLAYS` has one entry per family.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from arvbench.kernels.backends import Kernels

if TYPE_CHECKING:
    from arvbench.harness.verify.fixture import Check


def verify(path: Path, *, backend: str = "reference", device: str = "cpu", kernels: Kernels = "backend") -> list[Check]:
    """Replay one fixture with `backend` on `device` and return one check per recorded output.

    Where a kernel draws tokens, a check per run follows, of its draws.

    `kernels` "interpreter" needs `arvbench.kernels.dispatch.interpret_kernels` before.

    Raises FixtureError for a fixture that cannot be used, HostError for a device that this machine lacks.
    """
    from arvbench.adapters.loading import usable_device
    from arvbench.errors import UserError
    from arvbench.harness.verify.draws import drawn_by_kernel
    from arvbench.harness.verify.fixture import FAULTS, FixtureError, compare
    from arvbench.harness.verify.formats import read_fixture
    from arvbench.harness.verify.replays import replay_of

    target = usable_device(device)
    fixture = read_fixture(path)
    try:
        replay = replay_of(fixture.kind)
        checks = compare(fixture, replay.outputs(fixture, backend, target, kernels))
        return checks + drawn_by_kernel(replay, fixture, backend, target, kernels)
    except FixtureError:
        raise
    except UserError as error:
        raise FixtureError(f"{path} cannot be replayed: {error}") from error
    except FAULTS as error:
        # Sizes, names and types come from the fixture; missing or wrong ones fail here.
        reason = " ".join(str(error).split())
        raise FixtureError(f"{path} cannot be replayed: {type(error).__name__}: {reason}") from error
