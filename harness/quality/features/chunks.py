"""One pass over the images: pixels -> features of every extractor that is asked for, in chunks that survive a kill.

A chunk is a fixed range of image numbers. It is read (or sampled) and extracted as a whole by one process, so its bytes
depend on nothing but the source and the extractors: not on how many processes share the work (on a CPU each has one
thread), and not on how often it was interrupted. With a work folder every finished chunk is a file there; a second run
reads it, and any number of processes may work in the same folder at once.

Shapes   N images, n images of a chunk, D features of a layer
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from arvbench.errors import HostError, UserError
from arvbench.files import locked, replacing, temporaries, write_whole
from arvbench.harness.machine.environment import source_sha256
from arvbench.harness.quality.extractors.extractor import Extractor
from arvbench.harness.quality.features.sets import FeatureSet
from arvbench.harness.quality.identity import digest_of_images, image_digests
from arvbench.harness.quality.images.source import ImageSource

CHUNK = 256
"""Images of a chunk. Part of what a result's last bits depend on: not to be chosen."""
_DIGESTS, _HISTOGRAM = "digests", "histogram"
_TASK_NAME, _LOCK_NAME = "task.txt", ".lock"
_LIBRARIES = ("torch", "torchvision", "torch-fidelity", "clean-fid", "open-clip-torch", "timm", "pillow", "numpy")
"""What pixels and features pass through."""
_POLL_S = 0.2

LayerRequest = Sequence[tuple[Extractor, frozenset[str]]]
"""Extractors and the layers of each."""


PassOver = Callable[[ImageSource, LayerRequest, Path | None, Callable[[int], None]], "Scan"]
"""How images are passed over: (source, wanted, work, progress), in this process or shared by several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What one pass found."""

    features: Mapping[str, FeatureSet]
    """By name of the extractor."""
    digests_ND: Tensor
    """(N, 32) uint8: sha256 of every image."""
    histogram: Tensor
    """(256,) int64: how often every byte value occurs, all channels together."""
    images_sha256: str


def scan(
    source: ImageSource,
    wanted: LayerRequest,
    *,
    work: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> Scan:
    """Extract all layers of `wanted` from every image, each image read once.

    `work` is a folder that keeps finished chunks; one that belongs to other images or extractors raises UserError.
    `progress` hears how many images are done.
    """
    if work is None:
        return _scan_in_memory(source, wanted, progress)
    claim_folder(work, source, wanted)
    run_chunks(source, wanted, work, progress)
    return stored_scan(source, wanted, work)


def stored_scan(source: ImageSource, wanted: LayerRequest, work: Path) -> Scan:
    """What the finished chunks of a work folder say. Features are read when they are asked for."""
    numbers = range(chunk_count(source.count))

    def load(chunk: int, name: str) -> Tensor:
        return _read(_chunk_path(work, chunk), name)

    features = {
        extractor.name: FeatureSet(
            lambda chunk, layer, name=extractor.name: load(chunk, f"{name}/{layer}"),  # type: ignore[misc]
            chunks=len(numbers),
            count=source.count,
        )
        for extractor, _ in wanted
    }
    digests = [load(chunk, _DIGESTS) for chunk in numbers]
    return _scan(source, features, digests, [load(chunk, _HISTOGRAM) for chunk in numbers])


def _scan_in_memory(source: ImageSource, wanted: LayerRequest, progress: Callable[[int], None] | None) -> Scan:
    whole = {
        extractor.name: {layer: torch.empty(source.count, extractor.layers[layer]) for layer in layers}
        for extractor, layers in wanted
    }
    digests, histograms = [], []
    with single_thread(wanted):
        for chunk in _counted(source, progress):
            kept = _make_chunk(source, wanted, chunk)
            digests.append(kept[_DIGESTS])
            histograms.append(kept[_HISTOGRAM])
            numbers = chunk_range(chunk, source.count)
            for name, layers in whole.items():
                for layer, features_ND in layers.items():
                    features_ND[numbers.start : numbers.stop] = kept[f"{name}/{layer}"]
    return _scan(source, {name: in_chunks(layers) for name, layers in whole.items()}, digests, histograms)


def in_chunks(layers: Mapping[str, Tensor]) -> FeatureSet:
    """Features (N, D) in memory as the chunks that they were made in: their moments are summed in the same order."""
    (count,) = {len(features_ND) for features_ND in layers.values()}

    def load(chunk: int, layer: str) -> Tensor:
        numbers = chunk_range(chunk, count)
        return layers[layer][numbers.start : numbers.stop]

    return FeatureSet(load, chunks=chunk_count(count), count=count, whole=layers)


def _scan(
    source: ImageSource, features: Mapping[str, FeatureSet], digests: Sequence[Tensor], histograms: Sequence[Tensor]
) -> Scan:
    digests_ND = torch.cat(list(digests))
    return Scan(
        features=features,
        digests_ND=digests_ND,
        histogram=torch.stack(list(histograms)).sum(dim=0),
        images_sha256=digest_of_images(digests_ND, source.shape),
    )


@contextlib.contextmanager
def single_thread(wanted: LayerRequest) -> Iterator[None]:
    """On a CPU, make chunks on one thread: another number of threads moves Inception features of order one by 1e-5.

    More cores are used by more processes (shards.py), which changes no bit.
    """
    before = torch.get_num_threads()
    if any(extractor.device.type == "cpu" for extractor, _ in wanted):
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def chunk_count(images: int) -> int:
    return -(-images // CHUNK)


def chunk_range(chunk: int, images: int) -> range:
    """Numbers of the images of a chunk."""
    return range(chunk * CHUNK, min(images, (chunk + 1) * CHUNK))


def _counted(source: ImageSource, progress: Callable[[int], None] | None) -> Iterator[int]:
    """Chunk after chunk; when the next one is asked for, the last is done."""
    for chunk in range(chunk_count(source.count)):
        yield chunk
        if progress is not None:
            progress(chunk_range(chunk, source.count).stop)


def _make_chunk(source: ImageSource, wanted: LayerRequest, chunk: int) -> dict[str, Tensor]:
    """Everything that is kept of one chunk, by name in its file."""
    numbers = chunk_range(chunk, source.count)
    images_n3HW = source.read(numbers.start, numbers.stop)
    kept: dict[str, Tensor] = {}
    for extractor, layers in wanted:
        try:
            features = extractor.extract(images_n3HW, layers)
        except UserError as error:
            raise type(error)(f"{source.name}, images {numbers.start}..{numbers.stop - 1}: {error}") from error
        kept |= {f"{extractor.name}/{layer}": features_nD for layer, features_nD in features.items()}
    kept[_DIGESTS] = image_digests(images_n3HW)
    kept[_HISTOGRAM] = torch.bincount(images_n3HW.flatten(), minlength=256)
    return kept


def task_key(source: ImageSource, wanted: LayerRequest) -> str:
    """What the chunks of a work folder depend on, as text: images, extractors, this package's source and libraries."""
    lines = [source.key, f"images {source.count} of {source.shape}, chunks of {CHUNK}"]
    for extractor, layers in sorted(wanted, key=lambda pair: pair[0].name):
        lines.append(f"{extractor.name} {extractor.sha256} batch {extractor.batch} {' '.join(sorted(layers))}")
        lines.append(f"{extractor.preprocessing} on {_device_name(extractor.device)}")
    lines.append(f"arvbench source {source_sha256()}")
    lines += [f"{name} {version}" for name, version in _versions()]
    return "\n".join(lines)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@cache
def _versions() -> tuple[tuple[str, str], ...]:
    found = []
    for name in _LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            found.append((name, version(name)))
    return tuple(found)


def claim_folder(work: Path, source: ImageSource, wanted: LayerRequest) -> None:
    """Make the work folder, or see that it is one of the same task. Raises UserError for another task's folder.

    Processes that come at once wait for one another.
    """
    key = task_key(source, wanted)
    task = work / _TASK_NAME
    try:
        work.mkdir(parents=True, exist_ok=True)
        with locked(work / _LOCK_NAME):
            if task.is_file():
                if task.read_text(encoding="utf-8") != key:
                    raise UserError(
                        f"work folder {work} holds features of other images, other extractors or other versions; "
                        "remove it or choose another"
                    )
                return
            # Ours are the lock, and a half of the task's file that a killed process left.
            ours = {work / _LOCK_NAME, *temporaries(task)}
            if any(entry not in ours for entry in work.iterdir()):
                (work / _LOCK_NAME).unlink()
                raise UserError(f"work folder {work} is not empty and was not made by arvbench; choose another")
            write_whole(task, key)
    except OSError as error:
        raise UserError(f"cannot write to work folder {work}: {error.strerror or error}") from error


def run_chunks(
    source: ImageSource, wanted: LayerRequest, work: Path, progress: Callable[[int], None] | None = None
) -> None:
    """Make the chunks that are not there yet; returns when all are, whoever made them.

    A chunk in progress is locked by its process; the lock of one that died is free again. One bad file ends the run and
    leaves what is finished.
    """
    with single_thread(wanted):
        _run_chunks(source, wanted, work, progress)
    if progress is not None:
        progress(source.count)


def _run_chunks(source: ImageSource, wanted: LayerRequest, work: Path, progress: Callable[[int], None] | None) -> None:
    missing = list(range(chunk_count(source.count)))
    while missing:
        left = []
        worked = False
        for chunk in missing:
            path = _chunk_path(work, chunk)
            if _whole(path):
                continue
            with contextlib.ExitStack() as stack:
                try:
                    mine = stack.enter_context(locked(path.with_suffix(".lock"), wait=False))
                except OSError as error:
                    text = f"cannot write to work folder {work}: {path.stem}.lock: {error.strerror or error}"
                    raise UserError(text) from error
                if not mine:
                    left.append(chunk)
                elif not _whole(path):
                    for abandoned in temporaries(path):  # of a process that was killed while it wrote
                        abandoned.unlink()
                    kept = _make_chunk(source, wanted, chunk)
                    _save(path, kept)
                    worked = True
            if progress is not None:
                progress(_images_done(work, source.count))
        missing = left
        if missing and not worked:
            time.sleep(_POLL_S)


def folder_name(key: str) -> str:
    """A name for the work folder of a task."""
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def _chunk_path(work: Path, chunk: int) -> Path:
    return work / f"chunk-{chunk:06d}.safetensors"


def _images_done(work: Path, images: int) -> int:
    done = [c for c in range(chunk_count(images)) if _chunk_path(work, c).is_file()]
    return sum(len(chunk_range(chunk, images)) for chunk in done)


def _whole(path: Path) -> bool:
    """Whether a chunk is finished; files are renamed into place, so one that is there is complete."""
    return path.is_file()


def _read(path: Path, name: str) -> Tensor:
    try:
        with safe_open(path, framework="pt") as stored:
            return stored.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}); remove it and run the same command again") from error


def _save(path: Path, kept: Mapping[str, Tensor]) -> None:
    try:
        with replacing(path) as part:
            save_file({name: tensor.contiguous() for name, tensor in kept.items()}, part)
    except OSError as error:
        raise HostError(
            f"cannot write {path}: {error.strerror or error}; finished chunks are intact: make room and run the same "
            "command again"
        ) from error
