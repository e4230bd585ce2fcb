"""Part of an evaluation that this process does: all of it, the features of one shard of the images, or the numbers.

On a Ray cluster the nodes extract the features, and this process makes the numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from arvbench.errors import UserError

if TYPE_CHECKING:
    from arvbench.harness.commands.engines import EngineOptions
    from arvbench.harness.jobs import EventListener, Shard
    from arvbench.harness.quality.evaluation import EvaluationRequest
    from arvbench.harness.quality.features.feature_pass import FeaturePass
    from arvbench.harness.quality.features.shards import Coverage
    from arvbench.harness.quality.images.source import ImageSource
    from arvbench.harness.run.engines.ray_evaluation import ClusterOptions

ENGINES = ("local", "torchrun", "ray")
"""Engines of an evaluation."""


@dataclass(frozen=True, slots=True)
class EvaluationPart:
    """A shard, or None for all, with the device and the work folder of this process, and the engine's options."""

    shard: Shard | None
    device: str
    work: Path | None
    engine: EngineOptions
    cluster: ClusterOptions | None = None
    """Connection to the nodes that extract the features; None where this process does."""

    def connected(self) -> EvaluationPart:
        """Return this part with its cluster. Raises HostError, UserError where there is none."""
        return replace(self, cluster=self.engine.connect()) if self.engine.name == "ray" else self


def part_of(shard: str | None, engine: EngineOptions, device: str, work: Path | None) -> EvaluationPart:
    """Read `--shard` and `--engine`. Raises UserError for both at once, and for a shard without a work folder."""
    from arvbench.errors import UnknownName
    from arvbench.harness.run.ranks import Rank, this_rank
    from arvbench.harness.suites.sweep import parse_shard

    if engine.name not in (None, *ENGINES):
        raise UnknownName("engine of an evaluation", str(engine.name), ENGINES)
    if shard is not None and engine.name in ("torchrun", "ray"):
        raise UserError(f"--shard and --engine {engine.name} both say which shard: leave one away")
    if engine.name != "ray" and (strange := engine.given_of_clusters):
        raise UserError(f"--{strange[0]} is for --engine ray")
    if shard is None and engine.name != "torchrun":
        return EvaluationPart(None, device, work, engine)
    if work is None:
        raise UserError("a shard keeps features: name a folder with --work")
    part = parse_shard(shard) if shard is not None else None
    rank = this_rank() if part is None else Rank(part.index - 1, part.count, None)
    if device == "cuda" and rank.local is not None:
        device = _own_gpu(rank.local)
    return EvaluationPart(rank.shard, device, work / rank.folder, engine)


def _own_gpu(local: int) -> str:
    import torch

    return f"cuda:{local % max(1, torch.cuda.device_count())}"


def extract_part(
    source: ImageSource,
    request: EvaluationRequest,
    shard: Shard,
    features: FeaturePass,
    listener: EventListener,
) -> None:
    """Extract the features of a shard, note where that was, and say what to do with it."""
    from arvbench.harness.quality.evaluation import extract_shard, shard_images
    from arvbench.harness.quality.features.shards import note_shard

    folder = extract_shard(source, request, shard, features=features, listener=listener)
    note_shard(folder, source.count, shard, features.device)
    images = shard_images(source.count, shard)
    named = f"images {images.start}..{images.stop - 1}" if images else "no images"
    typer.echo(
        f"shard {shard}: {named} in {folder}; when all shards are there: arvbench merge {folder.parent} --out DIR"
    )


@contextmanager
def shared_features(
    source: ImageSource,
    request: EvaluationRequest,
    part: EvaluationPart,
    features: FeaturePass,
    listener: EventListener,
) -> Iterator[FeaturePass]:
    """Yield a pass that finds all features extracted: by the nodes of a Ray cluster, where the part says so.

    They stay in `--work`, without it in a scratch folder. Raises HostError for what a node lacks, naming the node.
    """
    if part.cluster is None:
        yield features
        return
    from arvbench.files import scratch_folder
    from arvbench.harness.run.engines.ray_evaluation import WHOLE, Extraction, extract_on_cluster

    extraction = Extraction.of(source, request, part.device, features.extractor_files)
    with scratch_folder() as scratch:
        work = part.work or scratch
        coverage = extract_on_cluster(extraction, work, part.cluster, listener)
        if coverage is not None:
            _tell(coverage, work)
        yield replace(features, work=work / WHOLE)


def _tell(coverage: Coverage, work: Path) -> None:
    machines = ", ".join(f"{machine.host} ({machine.hardware})" for machine in coverage.machines)
    typer.echo(f"{coverage.images} images, each once, from {machines}", err=True)
    if len(coverage.hardware) > 1:
        typer.echo(f"warning: {coverage.mixture}", err=True)
