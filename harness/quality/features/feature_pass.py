"""One pass over images: its device, its processes, and the folder of its finished chunks.

A helper process is `python -m arvbench.harness.quality.features.feature_pass` with one job on stdin. All processes
share one folder of chunks (chunks.py), and each chunk is extracted by one of them, so features are equal, bit for bit,
for any number of processes. When a process dies, another extracts its unfinished chunk again. The main process reports
the errors about images.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field

from arvbench.errors import ArvbenchError, ContractError, HostError
from arvbench.files import remove_dead_scratch, scratch_folder
from arvbench.harness.jobs import MessagePath, Shard
from arvbench.harness.machine.cores import usable_cores
from arvbench.harness.machine.processes import receive, running
from arvbench.harness.quality.extractors.extractor import Extractor, load_extractor
from arvbench.harness.quality.features.chunks import (
    LayerRequest,
    Progress,
    Scan,
    chunk_count,
    chunk_path,
    claim_folder,
    folder_name,
    in_chunks,
    run_chunks,
    scan_in_memory,
    stored_scan,
    task_key,
)
from arvbench.harness.quality.images.source import FileImages, ImageSource, ModelImages

_MODULE = "arvbench.harness.quality.features.feature_pass"
_HELPER_START_S = 10.0
"""Cost of a helper: its start, and loading the networks again."""
_DRAWN_IMAGE_S = 0.02
"""Least cost of an image that a model draws."""


@dataclass(frozen=True, kw_only=True)
class FeaturePass:
    """Extractors on a device, and passes over images with them."""

    device: torch.device | str = "cpu"
    workers: int | None = 1
    """Processes of a pass, this one included; at most one per chunk. None means one per core on a CPU when
    that saves more time than helpers take to start, else one. On "cuda" the helpers take the other devices in turn."""
    extractor_files: Mapping[str, Path] = field(default_factory=dict)
    """Name in the table of weights -> the user's file."""
    work: Path | None = None
    """Folder of finished chunks, to resume an interrupted pass; None keeps none."""
    cache_from: int = 2000
    """Features of a reference of more images than this stay in the cache."""
    folder_per_task: bool = False
    """True when `work` has a subfolder for each task; False when it belongs to a single task."""

    def extractor(self, name: str) -> Extractor:
        """Load an extractor. Raises UnknownName, UserError or CheckpointError as `load_extractor`."""
        return load_extractor(name, device=self.device, extractor_files=self.extractor_files)

    def scan(self, source: ImageSource, layers: LayerRequest, progress: Progress | None = None) -> Scan:
        """Extract `layers` from all images, reading each once.

        Raises UserError for an image that cannot be used and for a work folder of another task, HostError for a full
        disk.
        """
        helpers = self._helper_devices(source, layers, chunk_count(source.count))
        if self.work is None and not helpers:
            return scan_in_memory(source, layers, progress)
        remove_dead_scratch()
        with contextlib.ExitStack() as stack:
            folder = _scratch(stack) / "chunks" if self.work is None else self._folder(self.work, source, layers)
            self._extract(source, layers, folder, progress, chunks=range(chunk_count(source.count)))
            scan = stored_scan(source, layers, folder)
            return scan if self.work else _in_memory(scan, layers)

    def scan_part(
        self, source: ImageSource, layers: LayerRequest, shard: Shard, progress: Progress | None = None
    ) -> Path:
        """Extract the chunks of one shard into the work folder, and return that folder. Raises as `scan`."""
        if self.work is None:
            raise ContractError("a shard needs a work folder")
        folder, chunks = self._folder(self.work, source, layers), shard.range_of(chunk_count(source.count))
        claim_folder(folder, source, layers)
        if chunks:
            self._extract(source, layers, folder, progress, chunks=chunks)
        return folder

    def _folder(self, work: Path, source: ImageSource, layers: LayerRequest) -> Path:
        return work / folder_name(task_key(source, layers)) if self.folder_per_task else work

    def _extract(
        self, source: ImageSource, layers: LayerRequest, folder: Path, progress: Progress | None, *, chunks: range
    ) -> None:
        """Extract chunks into a folder, with helpers where some are not there yet."""
        claim_folder(folder, source, layers)
        missing = sum(not chunk_path(folder, chunk).is_file() for chunk in chunks)
        with contextlib.ExitStack() as processes:
            for device in self._helper_devices(source, layers, missing):
                job = self._job(source, layers, folder, device)
                job = job.model_copy(update={"chunks": (chunks.start, chunks.stop)})
                processes.enter_context(running(_MODULE, job, output=sys.stderr))
            run_chunks(source, layers, folder, progress, chunks=chunks)

    def _helper_devices(self, source: ImageSource, layers: LayerRequest, chunks: int) -> list[str]:
        """Return the device of each helper; none for images that only this process can read."""
        if source.address is None:
            return []
        processes = self.workers or 1
        if self.workers is None and torch.device(self.device).type == "cpu":
            drawn_s = _DRAWN_IMAGE_S if isinstance(source.address, ModelImages) else 0.0
            expected_s = source.count * (drawn_s + sum(extractor.image_s for extractor, _ in layers))
            processes = processes_that_pay(expected_s, min(usable_cores(), chunks))
        return helper_devices(str(self.device), min(processes, chunks) - 1)

    def _job(self, source: ImageSource, layers: LayerRequest, folder: Path, device: str) -> HelperJob:
        assert source.address is not None
        return HelperJob(
            images=source.address,
            images_key=folder_name(source.key),
            layers={extractor.name: tuple(sorted(names)) for extractor, names in layers},
            extractor_files=dict(self.extractor_files),
            device=device,
            work=folder,
        )


class HelperJob(BaseModel):
    """Message to a helper: the images, the layers, and the folder of their chunks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: Annotated[FileImages | ModelImages, Field(discriminator="kind")]
    images_key: str
    """Digest of the key of the images that the main process opened."""
    layers: dict[str, tuple[str, ...]]
    """Extractor -> layers."""
    extractor_files: dict[str, MessagePath]
    device: str
    work: MessagePath
    chunks: tuple[int, int] | None = None
    """First chunk, and the one behind the last; None for all."""


def _scratch(stack: contextlib.ExitStack) -> Path:
    """Return a temporary folder that ends with `stack`. Raises HostError where there is no room for one."""
    try:
        return stack.enter_context(scratch_folder())
    except OSError as error:
        raise HostError(f"cannot make a temporary folder: {error.strerror or error}; set TMPDIR") from error


def processes_that_pay(expected_s: float, most: int) -> int:
    """Return `most` processes for a pass of `expected_s` seconds on one core when helpers save more than they cost."""
    return most if most > 1 and expected_s * (1 - 1 / most) > _HELPER_START_S else 1


def helper_devices(device: str, count: int) -> list[str]:
    """Return the devices of `count` helpers: the other CUDA devices in turn, or `device` itself on a CPU."""
    if not device.startswith("cuda"):
        return [device] * count
    first, devices = torch.device(device).index or 0, torch.cuda.device_count()
    return [f"cuda:{(first + place) % devices}" for place in range(1, count + 1)]


def _in_memory(scan: Scan, layers: LayerRequest) -> Scan:
    """Load all features before the temporary folder of chunks is removed."""
    features = {
        extractor.name: in_chunks({layer: scan.features[extractor.name].features(layer) for layer in names})
        for extractor, names in layers
    }
    return replace(scan, features=features)


def main() -> int:
    """Read a job from stdin, and extract chunks until all are finished."""
    job = HelperJob.model_validate_json(receive())
    features = FeaturePass(device=job.device, extractor_files=job.extractor_files)
    try:
        layers = [(features.extractor(name), frozenset(names)) for name, names in job.layers.items()]
        source = _open(job)
        if isinstance(job.images, FileImages) and folder_name(source.key) != job.images_key:
            return 1  # the files have changed meanwhile: the main process extracts those that it listed
        run_chunks(source, layers, job.work, chunks=range(*job.chunks) if job.chunks else None)
    except ArvbenchError:
        return 1  # the main process meets the same error and reports it
    return 0


def _open(job: HelperJob) -> ImageSource:
    if isinstance(job.images, FileImages):
        from arvbench.harness.quality.images.changed import changed
        from arvbench.harness.quality.images.open import open_images

        source = open_images(job.images.path, resize=job.images.resize)
        return source if job.images.change is None else changed(source, job.images.change)
    from arvbench.harness.quality.images.live import load_live_source

    case = job.images.case.model_copy(update={"device": job.device})
    return load_live_source(case, half_decode=job.images.half_decode)


if __name__ == "__main__":
    sys.exit(main())
