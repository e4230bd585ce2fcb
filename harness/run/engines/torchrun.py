"""Workers of one rank among processes that torchrun or SLURM started: a rank measures its shard of the cases.

No rank waits for another or speaks with one. Each has a folder of its own, which `arvbench records merge` joins.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from arvbench.harness.run.engines.devices import VISIBLE
from arvbench.harness.run.engines.local import LocalEngine
from arvbench.harness.run.ranks import Rank, this_rank


class TorchrunEngine(LocalEngine):
    """The engine of this machine, whose workers see the GPU of this rank."""

    def __init__(self, *, workers: int | None = None, devices: Sequence[str] = ()) -> None:
        super().__init__(workers=workers, devices=devices or own_device(this_rank()))


def own_device(rank: Rank, variables: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return the name of a rank's GPU: the one that its launcher has shown it alone, or that of its local number.

    Empty where a launcher says no local number.
    """
    if rank.local is None:
        return ()
    seen = [name for name in variables.get(VISIBLE, "").split(",") if name]
    if not seen:
        return (str(rank.local),)
    return (seen[rank.local % len(seen)],)
