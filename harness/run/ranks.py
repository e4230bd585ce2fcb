"""Rank of this process among those that torchrun or SLURM started; they need no rendezvous, and none is made.

A shard follows from rank and number of processes alone: rank r of w is shard r + 1 of w.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from arvbench.errors import UserError
from arvbench.harness.jobs import Shard

_SOURCES = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", ""),
)
"""Variables of rank, number of processes and place on the machine, in the order in which they are looked for."""


@dataclass(frozen=True, slots=True)
class Rank:
    """Place of a process, from 0."""

    rank: int
    world: int
    local: int | None
    """Place on its machine, which is the number of its GPU; None where nothing says it."""

    @property
    def shard(self) -> Shard:
        return Shard(self.rank + 1, self.world)

    @property
    def folder(self) -> str:
        """Name of the folder of this rank's results."""
        return f"shard-{self.rank + 1:05d}-of-{self.world:05d}"


def this_rank(variables: Mapping[str, str] = os.environ) -> Rank:
    """Return the rank of this process. Raises UserError where no launcher has set it, and for what is no rank."""
    for rank, world, local in _SOURCES:
        if rank in variables and world in variables:
            first = int(variables.get("SLURM_ARRAY_TASK_MIN", "0")) if rank == "SLURM_ARRAY_TASK_ID" else 0
            found = _number(variables, rank) - first, _number(variables, world)
            if not 0 <= found[0] < found[1]:
                raise UserError(f"{rank}={variables[rank]} is no rank among {world}={variables[world]} processes")
            return Rank(*found, _number(variables, local) if local in variables else None)
    names = "; ".join(f"{rank} and {world}" for rank, world, _ in _SOURCES)
    raise UserError(f"--engine torchrun: start it by torchrun or srun, which set one of: {names}")


def _number(variables: Mapping[str, str], name: str) -> int:
    text = variables[name]
    if not text.isdigit():
        raise UserError(f"{name}={text[:40]!r} is not a number")
    return int(text)
