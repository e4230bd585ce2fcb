"""Options about where and how cases are measured: the engine, its workers, its devices, and retries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from arvbench.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from arvbench.harness.run.engines.engine import Engine as AnyEngine
    from arvbench.harness.suites.suite import Suite

Engine = Annotated[
    str | None,
    typer.Option(
        "--engine",
        metavar="NAME",
        help="local: CPU cases fork from one process that has imported the libraries; spawn: every case starts "
        "fresh; torchrun: the shard of this rank, as torchrun or SLURM number it, in a folder of its own below --out.  "
        "[default: local]",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Most untimed cases at once.  [default: as many as the cores allow]"),
]
Devices = Annotated[
    list[str] | None,
    typer.Option(
        "--devices",
        metavar="LIST",
        help="GPUs for cases on cuda, as in CUDA_VISIBLE_DEVICES (0,1,2): each worker sees one. Untimed cases take all "
        "of them at once, timed ones the first, alone.",
    ),
]
Retries = Annotated[
    int | None,
    typer.Option(
        "--retries",
        min=0,
        metavar="N",
        help="Further attempts at a case whose worker or machine was lost from outside.  [default: 0]",
    ),
]


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """The options of a command line."""

    name: str | None
    workers: int | None
    devices: tuple[str, ...]
    retries: int | None

    def open(self) -> AnyEngine:
        """Make the engine. Raises UnknownName, and UserError for options that it does not have."""
        from arvbench.harness.run.engines import DEFAULT_ENGINE, ENGINES
        from arvbench.harness.run.engines.spawn import SpawnEngine

        name = self.name or DEFAULT_ENGINE
        engine = ENGINES[name]
        given = {"workers": self.workers, "devices": self.devices or None}
        options = {option: value for option, value in given.items() if value is not None}
        if options and not (isinstance(engine, type) and issubclass(engine, SpawnEngine)):
            raise UserError(f"engine {name} has no --{next(iter(options))}")
        return engine(**options)

    def place(self, suite: Suite, out: Path) -> tuple[Suite, Path]:
        """Return the cases that this process measures, and the folder of their records: under torchrun, its shard."""
        if self.name != "torchrun":
            return suite, out
        from arvbench.harness.run.ranks import this_rank

        rank = this_rank()
        return suite.shard(rank.shard), out / rank.folder

    @property
    def attempts_more(self) -> int:
        return self.retries or 0
