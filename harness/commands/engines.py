"""Options about where and how cases are measured: the engine, its workers, its devices, and retries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from arvbench.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from arvbench.harness.run.engines.engine import Engine as AnyEngine
    from arvbench.harness.run.engines.local import LocalEngine
    from arvbench.harness.run.engines.ray_evaluation import ClusterOptions
    from arvbench.harness.run.ranks import Rank
    from arvbench.harness.run.store import RecordStore
    from arvbench.harness.suites.suite import Suite

Engine = Annotated[
    str | None,
    typer.Option(
        "--engine",
        metavar="NAME",
        help="local: CPU cases fork from one process that has imported the libraries; spawn: every case starts "
        "fresh; torchrun: the shard of this rank, as torchrun or SLURM number it, in a folder of its own below --out; "
        "ray: the nodes of a Ray cluster.  "
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
        help="Further attempts at a case whose worker or machine was lost from outside.  [default: 0, with ray 2]",
    ),
]


Address = Annotated[
    str | None,
    typer.Option("--address", metavar="ADDRESS", help="Ray cluster: auto, HOST:PORT.  [default: on this machine]"),
]
Accelerator = Annotated[
    str | None, typer.Option("--accelerator", metavar="TYPE", help="Only Ray nodes with this GPU, such as H100.")
]
Share = Annotated[
    Literal["cases", "images"],
    typer.Option(
        help="What --shard and torchrun share out: whole cases, or the images of every case, of which only features "
        "are kept; join them by `arvbench merge`.",
    ),
]
RAY_RETRIES = 2
"""Further attempts on a cluster, whose nodes may go."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """The options of a command line."""

    name: str | None
    workers: int | None
    devices: tuple[str, ...]
    retries: int | None
    address: str | None = None
    accelerator: str | None = None
    share: Literal["cases", "images"] = "cases"
    """Parts that a shard is made of."""

    @contextmanager
    def begun(self, *, wanted: bool) -> Iterator[LocalEngine | None]:
        """Yield the engine of this machine, whose warm process imports meanwhile; None for others, and if not `wanted`.

        It is closed when the block ends.
        """
        from arvbench.harness.run.engines import DEFAULT_ENGINE

        if not wanted or (self.name or DEFAULT_ENGINE) != "local":
            yield None
            return
        from arvbench.harness.run.engines.local import LocalEngine

        with closing(self.open()) as engine:
            assert isinstance(engine, LocalEngine)
            engine.begin()
            yield engine

    def open(self) -> AnyEngine:
        """Make the engine. Raises UnknownName, and UserError for options that it does not have."""
        from arvbench.harness.run.engines import DEFAULT_ENGINE, ENGINES

        name = self.name or DEFAULT_ENGINE
        engine = ENGINES[name]
        given = {
            "workers": self.workers,
            "devices": self.devices or None,
            "address": self.address,
            "accelerator": self.accelerator,
        }
        options = {option: value for option, value in given.items() if value is not None}
        taken = signature(engine).parameters
        if strange := [option for option in options if option not in taken]:
            raise UserError(f"engine {name} has no --{strange[0]}")
        return engine(**options)

    def place(self, suite: Suite, out: Path, shard: str | None) -> tuple[Suite, RecordStore]:
        """Return the cases that this process measures, those of `--shard`, and the store of their records.

        Under torchrun they are the shard of this rank, in a folder of its own, and so are shards of images. Raises
        UserError for both.
        """
        from arvbench.harness.run.store import RecordStore
        from arvbench.harness.suites.sweep import parse_shard

        if self.share == "images":
            return suite, RecordStore(out / self.rank(shard).folder)
        if self.name != "torchrun":
            return (suite if shard is None else suite.shard(parse_shard(shard))), RecordStore(out)
        rank = self.rank(shard)
        return suite.shard(rank.shard), RecordStore(out / rank.folder)

    def rank(self, shard: str | None) -> Rank:
        """Return the place of this process: by `--shard`, or as a launcher numbers it. Raises UserError for both."""
        from arvbench.harness.run.ranks import Rank, this_rank
        from arvbench.harness.suites.sweep import parse_shard

        if self.name in ("torchrun", "ray") and shard is not None:
            raise UserError(f"--shard and --engine {self.name} both say which shard: leave one away")
        if shard is not None:
            part = parse_shard(shard)
            return Rank(part.index - 1, part.count, None)
        if self.name != "torchrun":
            raise UserError("--share images needs --shard K/N or --engine torchrun; other engines share images anyway")
        return this_rank()

    @property
    def given_of_clusters(self) -> list[str]:
        """Names of the given options that an evaluation has on a cluster alone."""
        given = {"address": self.address, "accelerator": self.accelerator, "retries": self.retries}
        return [name for name, value in given.items() if value is not None]

    def connect(self) -> ClusterOptions:
        """Connect to the Ray cluster. Raises HostError, UserError as `Cluster`."""
        from arvbench.harness.run.engines.ray_evaluation import ClusterOptions, open_cluster

        return ClusterOptions(open_cluster(self.address), self.workers, self.attempts_more, self.accelerator)

    @property
    def attempts_more(self) -> int:
        return (RAY_RETRIES if self.name == "ray" else 0) if self.retries is None else self.retries
