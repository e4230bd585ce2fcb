"""Several processes share the images of one evaluation.

Each is `python -m arvbench.harness.quality.features.shards`, with one job on stdin.

All of them work in one folder of chunks (stream.py). A chunk is made whole by one process, so the numbers are the same,
bit for bit, for any number of processes. One that dies costs its unfinished chunk, which another makes again; whatever
goes wrong with the images is found by the main process itself, and told by it alone.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from arvbench.errors import ArvbenchError
from arvbench.harness.machine.cores import usable_cores
from arvbench.harness.machine.processes import receive, running
from arvbench.harness.quality.extractors.extractor import load_extractor
from arvbench.harness.quality.features.chunks import (
    LayerRequest,
    PassOver,
    Scan,
    chunk_count,
    claim_folder,
    in_chunks,
    run_chunks,
    scan,
    stored_scan,
)
from arvbench.harness.quality.images.source import ImageSource
from arvbench.results.schema import CaseConfig

_MODULE = "arvbench.harness.quality.features.shards"
WORTH_SHARING = 8
"""Chunks from which on a further process on a CPU earns the seconds that its start takes."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileImages(_Message):
    """Images in a file or folder."""

    kind: Literal["files"] = "files"
    path: Path
    resize: str | None = None


class ModelImages(_Message):
    """Images that a case's model draws for its quality request."""

    kind: Literal["model"] = "model"
    case: CaseConfig


class ShardJob(_Message):
    """What one more process is told."""

    images: Annotated[FileImages | ModelImages, Field(discriminator="kind")]
    layers: dict[str, tuple[str, ...]]
    """Extractor -> layers."""
    extractor_files: dict[str, Path]
    device: str
    work: Path


def shared(
    images: FileImages | ModelImages,
    *,
    workers: int | None,
    extractor_files: Mapping[str, Path],
    device: torch.device | str,
) -> PassOver:
    """Return a pass over the samples that `workers` processes share, this one included.

    None takes one for each core on a CPU, when there is enough to do, else one; never more than there are chunks.
    On "cuda" the others take the other devices in turn; elsewhere all use the same device. Without a work folder the
    chunks live in a temporary one.
    """

    def pass_over(
        source: ImageSource, wanted: LayerRequest, work: Path | None, progress: Callable[[int], None]
    ) -> Scan:
        chunks = chunk_count(source.count)
        by_itself = usable_cores() if torch.device(device).type == "cpu" and chunks >= WORTH_SHARING else 1
        others = min(workers or by_itself, chunks) - 1
        if others == 0:
            return scan(source, wanted, work=work, progress=progress)
        with contextlib.ExitStack() as stack:
            folder = work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="arvbench-"))) / "chunks"
            claim_folder(folder, source, wanted)
            jobs = [
                ShardJob(
                    images=images,
                    layers={extractor.name: tuple(sorted(layers)) for extractor, layers in wanted},
                    extractor_files=dict(extractor_files),
                    device=other,
                    work=folder,
                )
                for other in other_devices(str(device), others)
            ]
            with contextlib.ExitStack() as processes:
                for job in jobs:
                    processes.enter_context(running(_MODULE, job, output=sys.stderr))
                run_chunks(source, wanted, folder, progress)
            found = stored_scan(source, wanted, folder)
            return found if work else _in_memory(found, wanted)

    return pass_over


def other_devices(device: str, count: int) -> list[str]:
    """Devices of the further processes: the other CUDA devices in turn, or `device` itself on the CPU."""
    if not device.startswith("cuda"):
        return [device] * count
    first, devices = torch.device(device).index or 0, torch.cuda.device_count()
    return [f"cuda:{(first + place) % devices}" for place in range(1, count + 1)]


def _in_memory(found: Scan, wanted: LayerRequest) -> Scan:
    """The same with all features read, before their temporary folder goes."""
    features = {
        extractor.name: in_chunks({layer: found.features[extractor.name].features(layer) for layer in layers})
        for extractor, layers in wanted
    }
    return replace(found, features=features)


def main() -> int:
    """Read a job from stdin and make chunks until all are there."""
    job = ShardJob.model_validate_json(receive())
    try:
        wanted = [
            (load_extractor(name, device=job.device, extractor_files=job.extractor_files), frozenset(layers))
            for name, layers in job.layers.items()
        ]
        run_chunks(_open(job), wanted, job.work)
    except ArvbenchError:
        return 1  # the main process meets the same and tells of it
    return 0


def _open(job: ShardJob) -> ImageSource:
    if isinstance(job.images, FileImages):
        from arvbench.harness.quality.images.open import open_images

        return open_images(job.images.path, resize=job.images.resize)
    from arvbench.harness.quality.images.live import load_live_source

    return load_live_source(job.images.case.model_copy(update={"device": job.device}))


if __name__ == "__main__":
    sys.exit(main())
