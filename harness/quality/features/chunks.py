"""Features of one image set in chunks that survive a kill: pixels -> every requested layer of every extractor.

A chunk is a fixed range of image numbers. One process reads (or samples) and extracts it as a whole, so its bytes
depend only on the source and the extractors, not on interruptions or the number of processes (each has one thread on a
CPU). In a work folder every finished chunk is a file: a resumed run reads it, and any number of processes may share the
folder.

Shapes   N images, n images of one chunk, D features of a layer
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from arvbench.disk import cannot_write, utf8_name
from arvbench.errors import UserError
from arvbench.files import hidden, is_temporary, locked, remove_dead, write_whole
from arvbench.harness.machine.installed import library_versions
from arvbench.harness.machine.source import source_sha256
from arvbench.harness.quality.extractors.extractor import Extractor
from arvbench.harness.quality.features.sets import FeatureSet
from arvbench.harness.quality.identity import digest_of_images, image_digests
from arvbench.harness.quality.images.source import ImageSource

CHUNK = 256
"""Images of a chunk. The last bits of a result depend on it, so it cannot be chosen."""
FEATURE_LIBRARIES = (
    *("torch", "torchvision", "numpy", "pillow"),
    *("torch-fidelity", "clean-fid", "open-clip-torch", "timm"),
)
"""Distributions that can change pixels or features."""
_DIGESTS, _HISTOGRAM = "digests", "histogram"
_SHA256 = "sha256"
"""Metadata of a chunk: JSON of tensor -> digest."""
TASK_NAME = "task.txt"
_POLL_S = 0.2

LayerRequest = Sequence[tuple[Extractor, frozenset[str]]]
"""Extractors, each with the layers to extract."""
Progress = Callable[[int], None]
"""Receives the number of images that are finished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """Features, digests and histogram of all images, from one pass over them."""

    features: Mapping[str, FeatureSet]
    """Extractor -> features."""
    digests_ND: Tensor
    """(N, 32) uint8: sha256 of every image."""
    histogram: Tensor
    """(256,) int64: count of every byte value, all channels together."""
    images_sha256: str
    """Digest of all images in order."""


def scan_in_memory(source: ImageSource, layers: LayerRequest, progress: Progress | None = None) -> Scan:
    """Extract all chunks in this process and hold their features in memory."""
    whole = {
        extractor.name: {layer: torch.empty(source.count, extractor.layers[layer]) for layer in names}
        for extractor, names in layers
    }
    digests, histograms = [], []
    with single_thread(layers):
        for chunk in range(chunk_count(source.count)):
            numbers = chunk_range(chunk, source.count)
            tensors = _extract_chunk(source, layers, chunk)
            digests.append(tensors[_DIGESTS])
            histograms.append(tensors[_HISTOGRAM])
            for name, features in whole.items():
                for layer, features_ND in features.items():
                    features_ND[numbers.start : numbers.stop] = tensors[f"{name}/{layer}"]
            if progress is not None:
                progress(numbers.stop)
    return _scan(source, {name: in_chunks(features) for name, features in whole.items()}, digests, histograms)


def stored_scan(source: ImageSource, layers: LayerRequest, work: Path) -> Scan:
    """Open a work folder in which all chunks are finished. Features are read at their first use."""
    chunks = range(chunk_count(source.count))

    def features_of(extractor: Extractor) -> FeatureSet:
        def load(chunk: int, layer: str) -> Tensor:
            return _read(chunk_path(work, chunk), f"{extractor.name}/{layer}")

        return FeatureSet(load, chunks=len(chunks), count=source.count)

    features = {extractor.name: features_of(extractor) for extractor, _ in layers}
    digests, histograms = ([_read(chunk_path(work, c), name) for c in chunks] for name in (_DIGESTS, _HISTOGRAM))
    return _scan(source, features, digests, histograms)


def in_chunks(layers: Mapping[str, Tensor]) -> FeatureSet:
    """Split features in memory, layer -> (N, D), into chunks, so moments are summed as in a stored scan."""
    (count,) = {len(features_ND) for features_ND in layers.values()}

    def load(chunk: int, layer: str) -> Tensor:
        numbers = chunk_range(chunk, count)
        return layers[layer][numbers.start : numbers.stop]

    return FeatureSet(load, chunks=chunk_count(count), count=count, whole=layers)


def _scan(
    source: ImageSource, features: Mapping[str, FeatureSet], digests: list[Tensor], histograms: list[Tensor]
) -> Scan:
    digests_ND = torch.cat(digests)
    return Scan(
        features=features,
        digests_ND=digests_ND,
        histogram=torch.stack(histograms).sum(dim=0),
        images_sha256=digest_of_images(digests_ND, source.shape),
    )


@contextlib.contextmanager
def single_thread(layers: LayerRequest) -> Iterator[None]:
    """Use one thread on a CPU, because Inception features of order one move by 1e-5 with the number of threads.

    Processes, not threads, use the other cores (feature_pass.py).
    """
    before = torch.get_num_threads()
    if any(extractor.device.type == "cpu" for extractor, _ in layers):
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def chunk_count(images: int) -> int:
    """Return the number of chunks of a set of images."""
    return -(-images // CHUNK)


def chunk_range(chunk: int, images: int) -> range:
    """Return the image numbers of a chunk."""
    return range(chunk * CHUNK, min(images, (chunk + 1) * CHUNK))


def _extract_chunk(source: ImageSource, layers: LayerRequest, chunk: int) -> dict[str, Tensor]:
    """Return the content of a chunk's file: features as "EXTRACTOR/LAYER", digests and histogram."""
    numbers = chunk_range(chunk, source.count)
    images_n3HW = source.read(numbers.start, numbers.stop)
    tensors: dict[str, Tensor] = {}
    for extractor, names in layers:
        try:
            features = extractor.extract(images_n3HW, names)
        except UserError as error:
            raise type(error)(f"{source.name}, images {numbers.start}..{numbers.stop - 1}: {error}") from error
        tensors |= {f"{extractor.name}/{layer}": features_nD for layer, features_nD in features.items()}
    tensors[_DIGESTS] = image_digests(images_n3HW)
    tensors[_HISTOGRAM] = torch.bincount(images_n3HW.flatten(), minlength=256)
    return tensors


def task_key(source: ImageSource, layers: LayerRequest) -> str:
    """Return text that changes with the chunks' content: images, extractors, this package's source, libraries."""
    lines = [source.key, f"images {source.count} of {source.shape}, chunks of {CHUNK}"]
    for extractor, names in sorted(layers, key=lambda pair: pair[0].name):
        device = extractor.device
        machine = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        lines.append(f"{extractor.name} {extractor.sha256} batch {extractor.batch} {' '.join(sorted(names))}")
        lines.append(f"{extractor.preprocessing} on {machine}")
    lines.append(f"arvbench source {source_sha256()}")
    lines += [f"{name} {version}" for name, version in library_versions(FEATURE_LIBRARIES).items()]
    return "\n".join(lines)


def folder_name(key: str) -> str:
    """Return a name for the work folder of a task: 16 hex digits."""
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:16]


def claim_folder(work: Path, source: ImageSource, layers: LayerRequest) -> None:
    """Make the work folder of a task, or check that an existing one belongs to it.

    Raises UserError for the folder of another task or program, which stays as it is; HostError for a full disk.
    Processes that claim it at once wait for one another. A folder whose chunks are finished may be read-only.
    """
    key = task_key(source, layers).encode(errors="surrogateescape")  # names of files are bytes
    task = work / TASK_NAME
    lock = hidden(task, "lock")
    try:
        work.mkdir(parents=True, exist_ok=True)
        if _is_claimed(work, key):
            _clear(lock, task)
            return
        with locked(lock):
            if not _is_claimed(work, key):
                write_whole(task, key)
    except OSError as error:
        raise cannot_write(f"to work folder {work}", error) from error


def _is_claimed(work: Path, key: bytes) -> bool:
    """Return whether a work folder has this task already. Raises UserError for a folder that may not be used."""
    task = work / TASK_NAME
    if task.is_file():
        if task.read_bytes() != key:
            raise UserError(
                f"work folder {work} holds features of other images, other extractors or other versions; remove it or "
                "choose another"
            )
        return True
    # Others may be writing the task's file just now, and a killed process may have left half of one.
    others = [entry for entry in work.iterdir() if entry != hidden(task, "lock") and not is_temporary(entry, task)]
    if others and not task.is_file():
        raise UserError(f"work folder {work} is not empty and was not made by arvbench; choose another")
    return False


def run_chunks(
    source: ImageSource,
    layers: LayerRequest,
    work: Path,
    progress: Progress | None = None,
    *,
    chunks: range | None = None,
) -> None:
    """Extract missing chunks in a work folder, all or some; return when they are finished, by this process or others.

    A process locks its chunk; the lock ends with the process. An unreadable image raises UserError, and finished
    chunks stay.
    """
    paths = {chunk: chunk_path(work, chunk) for chunk in chunks or range(chunk_count(source.count))}
    missing = [chunk for chunk, path in paths.items() if not path.is_file()]
    with single_thread(layers):
        while missing:
            extracted = False
            for chunk in missing:
                with _chunk_lock(paths[chunk]) as free:
                    # Files are renamed into place: one that exists is complete.
                    if free and not paths[chunk].is_file():
                        _write_chunk(paths[chunk], source, layers, chunk)
                        extracted = True
                if progress is not None:
                    progress(sum(len(chunk_range(c, source.count)) for c, path in paths.items() if path.is_file()))
            missing = [chunk for chunk in missing if not paths[chunk].is_file()]
            if missing and not extracted:
                time.sleep(_POLL_S)
    for path in paths.values():
        _clear(path.with_suffix(".lock"), path)
    if progress is not None:
        progress(sum(len(chunk_range(chunk, source.count)) for chunk in paths))


def _clear(lock: Path, path: Path) -> None:
    """Remove the lock file and the temporaries that a killed writer of `path` left; without them, do nothing."""
    with contextlib.suppress(OSError):  # a finished folder may be read-only
        if lock.exists():
            with locked(lock, wait=False):  # it goes with its last holder
                remove_dead(path)


@contextlib.contextmanager
def _chunk_lock(path: Path) -> Iterator[bool]:
    """Lock a chunk; yield False when another process holds the lock."""
    with contextlib.ExitStack() as stack:
        try:
            free = stack.enter_context(locked(path.with_suffix(".lock"), wait=False))
        except OSError as error:
            where = f"to work folder {path.parent}"
            raise cannot_write(where, error, kept="finished chunks are intact") from error
        yield free


def _write_chunk(path: Path, source: ImageSource, layers: LayerRequest, chunk: int) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in _extract_chunk(source, layers, chunk).items()}
    digests = {name: _digest(tensor) for name, tensor in tensors.items()}
    try:
        # One metadata entry: the order of several is not fixed, and equal chunks have equal bytes.
        write_whole(path, save(tensors, {_SHA256: json.dumps(digests, sort_keys=True)}))
    except OSError as error:
        raise cannot_write(path, error, kept="finished chunks are intact") from error


def chunk_path(work: Path, chunk: int) -> Path:
    return work / f"chunk-{chunk:06d}.safetensors"


def check_chunk(path: Path) -> None:
    """Raise UserError where a tensor of a finished chunk is not the one that was written."""
    try:
        with utf8_name(path) as opened, safe_open(opened, framework="pt") as stored:
            names = list(stored.keys())
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); remove it and run the same command again") from error
    for name in names:
        _read(path, name)


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()


def _read(path: Path, name: str) -> Tensor:
    """Return a tensor of a finished chunk. Raises UserError when it is not the one that was written."""
    try:
        with utf8_name(path) as opened, safe_open(opened, framework="pt") as stored:
            tensor: Tensor = stored.get_tensor(name)
            if json.loads(stored.metadata()[_SHA256])[name] != _digest(tensor):
                raise ValueError(f"other bytes of {name} than were written")
            return tensor
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); remove it and run the same command again") from error
