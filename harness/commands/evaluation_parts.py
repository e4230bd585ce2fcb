"""Part of an evaluation that this process does: all of it, or the features of one shard of the images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from arvbench.errors import UserError

if TYPE_CHECKING:
    from arvbench.harness.jobs import EventListener, Shard
    from arvbench.harness.quality.evaluation import EvaluationRequest
    from arvbench.harness.quality.features.feature_pass import FeaturePass
    from arvbench.harness.quality.images.source import ImageSource


@dataclass(frozen=True, slots=True)
class EvaluationPart:
    """A shard, or None for all, with the device and the work folder of this process."""

    shard: Shard | None
    device: str
    work: Path | None


def part_of(shard: str | None, engine: str | None, device: str, work: Path | None) -> EvaluationPart:
    """Read `--shard` and `--engine`. Raises UserError for both at once, and for a shard without a work folder."""
    if shard is None and engine is None:
        return EvaluationPart(None, device, work)
    from arvbench.errors import UnknownName
    from arvbench.harness.run.ranks import Rank, this_rank
    from arvbench.harness.suites.sweep import parse_shard

    if engine not in (None, "torchrun"):
        raise UnknownName("engine of an evaluation", str(engine), ["torchrun"])
    if shard is not None and engine is not None:
        raise UserError("--shard and --engine torchrun both say which shard: leave one away")
    if work is None:
        raise UserError("a shard keeps features: name a folder with --work")
    part = parse_shard(shard) if shard is not None else None
    rank = this_rank() if part is None else Rank(part.index - 1, part.count, None)
    if device == "cuda" and rank.local is not None:
        device = _own_gpu(rank.local)
    return EvaluationPart(rank.shard, device, work / rank.folder)


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
