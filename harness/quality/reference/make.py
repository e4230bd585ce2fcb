"""Statistics of the user's own images in the ADM evaluator's layout, which its TensorFlow original reads too.

Means and covariances are those of all images. A subset of the images, with their features, is kept in the file for
precision, recall and kernel distances. Only covariances are in memory as a whole.

Shapes   N images, K kept ones, n images read at a time, D features of a layer
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

import arvbench
from arvbench.adapters.checkpoints import sha256_of
from arvbench.disk import cannot_write
from arvbench.errors import UserError
from arvbench.files import claimed
from arvbench.harness.data import DATA_SETS
from arvbench.harness.machine.installed import library_versions
from arvbench.harness.quality.extractors.extractor import Extractor
from arvbench.harness.quality.features.chunks import FEATURE_LIBRARIES, Progress, Scan
from arvbench.harness.quality.features.feature_pass import FeaturePass
from arvbench.harness.quality.features.sets import FeatureSet
from arvbench.harness.quality.identity import SHORT_DIGEST, image_digests
from arvbench.harness.quality.images.open import open_images
from arvbench.harness.quality.images.resize import ResizedSource, parse_resize
from arvbench.harness.quality.images.source import ImageSource
from arvbench.harness.quality.images.stored import PROVENANCE_KEY, description_json
from arvbench.harness.quality.protocols.protocol import PROTOCOLS, reference_layers
from arvbench.harness.quality.reference.load import data_set_source
from arvbench.harness.quality.reference.reference_set import ReferenceLayers, Use
from arvbench.harness.quality.reference.statistics import (
    ADM_EXTRACTOR,
    ADM_LAYERS,
    DIGESTS_KEY,
    IMAGES_KEY,
    RECORD_KEY,
    ExtractorRecord,
    ReferenceRecord,
    moment_keys,
)

_AT_ONCE = 64
"""Images that are copied at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceRequest:
    """Settings of a reference file to make."""

    out: Path
    """An .npz."""
    protocols: tuple[str, ...]
    keep: int = 10_000
    """Images to keep in the file, at most; 0 keeps none."""
    seed: int = 0
    """Seed of the choice of the kept images."""
    use: Use = ""
    force: bool = False
    """Replace a file at `out`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceFile:
    """A written reference file."""

    path: Path
    sha256: str
    record: ReferenceRecord


def source_of(images: str, resize: str | None = None, *, class_folders: bool = False) -> ImageSource:
    """Open the images at a path, or those of a named data set. Arguments and errors are those of `open_images`."""
    if images not in DATA_SETS:
        return open_images(images, resize=resize, class_folders=class_folders)
    source, rule = data_set_source(images), parse_resize(resize)
    return source if rule is None else ResizedSource(source, rule)


def needs_of(protocols: Sequence[str], load: Callable[[str], Extractor]) -> ReferenceLayers:
    """Return the reference layers that the metrics of these protocols read, each extractor loaded once.

    Raises UnknownName; UserError for no protocol, for one that compares with no reference, and for missing weights.
    """
    named = [PROTOCOLS[name] for name in dict.fromkeys(protocols)]
    if not named:
        raise UserError(f"no protocol is named; known: {', '.join(PROTOCOLS)}")
    for protocol in named:
        if all(metric.reads is None for metric in protocol.metrics):
            raise UserError(f"protocol {protocol.name} compares with no reference")
        if protocol.statistics_only:
            raise UserError(f"protocol {protocol.name} compares with published statistics: make those of adm-v1")
    needs = reference_layers((protocol.extractor, protocol.metrics) for protocol in named)
    for layer in ADM_LAYERS if ADM_EXTRACTOR in needs else ():
        needs[ADM_EXTRACTOR].setdefault(layer, "moments")  # the layout has both or none
    return [(load(name), layers) for name, layers in needs.items()]


def check_output(out: Path, *, force: bool) -> None:
    """Raise UserError, before any work, for a path that cannot be written."""
    if out.suffix.lower() != ".npz":
        raise UserError(f"--out {out}: the reference is written as an .npz, so give it that ending")
    if out.is_dir():
        raise UserError(f"--out {out} is a folder: name a file")
    if out.exists() and not force:
        raise UserError(f"{out} already exists: choose another name, or replace it with --force")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(f"to {out.parent}", error) from error
    if not os.access(out.parent, os.W_OK):
        raise UserError(f"cannot write to {out.parent}: permission denied")


def make_reference(
    source: ImageSource,
    needs: ReferenceLayers,
    request: ReferenceRequest,
    *,
    features: FeaturePass | None = None,
    progress: Progress | None = None,
) -> ReferenceFile:
    """Write a reference file with the layers `needs` of all images, whole or not at all.

    Equal images, requests and versions give equal bytes. `features` extracts the layers.

    Raises UserError for an output that exists (without `force`) or cannot be written, fewer than two images, and images
    that change during the pass; HostError for a full disk.
    """
    check_output(request.out, force=request.force)
    if source.count < 2:
        raise UserError(f"{source.name} has {source.count} image: a covariance needs at least 2")
    layers = [(extractor, frozenset(names)) for extractor, names in needs]
    scan = (features or FeaturePass()).scan(source, layers, progress)
    kept_K = choose_kept(source.count, request.keep, request.seed)
    record = ReferenceRecord(
        images=source.count,
        kept=len(kept_K),
        keep_seed=request.seed,
        images_sha256=scan.images_sha256,
        image_shape=source.shape,
        use=request.use,
        protocols=tuple(dict.fromkeys(request.protocols)),
        extractors={
            extractor.name: ExtractorRecord(
                sha256=extractor.sha256,
                preprocessing=extractor.preprocessing,
                batch=extractor.batch,
                layers={layer: extractor.layers[layer] for layer in sorted(names)},
            )
            for extractor, names in needs
        },
        versions={"arvbench": arvbench.__version__, **library_versions(FEATURE_LIBRARIES)},
    )
    with _atomically(request.out, force=request.force) as file, zipfile.ZipFile(file, "w") as archive:
        _write_all(archive, source, scan, kept_K, needs, record)
    return ReferenceFile(path=request.out, sha256=sha256_of(request.out), record=record)


def choose_kept(count: int, keep: int, seed: int) -> Tensor:
    """Choose the images to keep: ascending numbers (min(count, keep),) int64."""
    if keep < 0:
        raise UserError(f"--keep-images {keep}: a number of images, 0 or more")
    if keep >= count:
        return torch.arange(count)
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:keep].sort().values


def _write_all(
    archive: zipfile.ZipFile,
    source: ImageSource,
    scan: Scan,
    kept_K: Tensor,
    needs: ReferenceLayers,
    record: ReferenceRecord,
) -> None:
    if len(kept_K):
        _write_rows(archive, IMAGES_KEY, (len(kept_K), *source.shape, 3), np.uint8, _kept_images(source, scan, kept_K))
        if source.labels_N is not None:
            _write(archive, "labels", source.labels_N[kept_K].numpy())
    for extractor, layers in needs:
        features = scan.features[extractor.name]
        for layer, part in layers.items():
            _write_moments(archive, extractor.name, layer, features)
            if part == "features" and len(kept_K):
                shape = (len(kept_K), extractor.layers[layer])
                rows = _kept_rows(features.blocks(layer), kept_K)
                _write_rows(archive, f"features/{extractor.name}/{layer}", shape, np.float32, rows)
    _write(archive, DIGESTS_KEY, scan.digests_ND[:, :SHORT_DIGEST].numpy())
    description = json.loads(description_json(source.provenance, source.class_names))
    content = description | {RECORD_KEY: record.model_dump(mode="json")}
    text = json.dumps(content, sort_keys=True).encode()
    _write(archive, PROVENANCE_KEY, np.frombuffer(text, dtype=np.uint8))


def _write_moments(archive: zipfile.ZipFile, extractor: str, layer: str, features: FeatureSet) -> None:
    mean_key, cov_key = moment_keys(extractor, layer)
    moments = features.moments(layer)
    # The sums are symmetric except for the last bit, and readers may require symmetry.
    cov_DD = (moments.cov_DD + moments.cov_DD.T) / 2
    _write(archive, mean_key, moments.mean_D.numpy())
    _write(archive, cov_key, cov_DD.numpy())


def _kept_images(source: ImageSource, scan: Scan, kept_K: Tensor) -> Iterator[np.ndarray]:
    """Yield the kept images, NHWC, a few at a time. Raise UserError for one that changed since it was extracted."""
    for numbers in kept_K.split(_AT_ONCE):
        images_n3HW = torch.cat([source.read(start, stop) for start, stop in _ranges(numbers.tolist())])
        if not torch.equal(image_digests(images_n3HW), scan.digests_ND[numbers]):
            raise UserError(f"images of {source.name} changed while they were read: run again when they are finished")
        yield images_n3HW.permute(0, 2, 3, 1).contiguous().numpy()


def _ranges(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of every run of consecutive numbers; `numbers` ascend."""
    start = previous = numbers[0]
    for number in numbers[1:]:
        if number != previous + 1:
            yield start, previous + 1
            start = number
        previous = number
    yield start, previous + 1


def _kept_rows(blocks: Iterable[Tensor], kept_K: Tensor) -> Iterator[np.ndarray]:
    """Yield the rows of the kept images from blocks of features."""
    start = 0
    for block_BD in blocks:
        stop = start + len(block_BD)
        inside = kept_K[(kept_K >= start) & (kept_K < stop)] - start
        yield block_BD[inside].float().contiguous().numpy()
        start = stop


def _write(archive: zipfile.ZipFile, key: str, array: np.ndarray) -> None:
    _write_rows(archive, key, array.shape, array.dtype, [np.ascontiguousarray(array)])


def _write_rows(
    archive: zipfile.ZipFile,
    key: str,
    shape: tuple[int, ...],
    dtype: np.dtype | type,
    blocks: Iterable[np.ndarray],
) -> None:
    """Write an array block by block, uncompressed, as numpy.savez does."""
    header = {"descr": npy.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    # A member opened by name has the date 1980-01-01: equal content gives equal bytes.
    with archive.open(f"{key}.npy", "w", force_zip64=True) as stream:
        npy.write_array_header_1_0(stream, header)
        for block in blocks:
            stream.write(block.data.cast("B") if block.size else b"")


@contextmanager
def _atomically(out: Path, *, force: bool) -> Iterator[BinaryIO]:
    """Yield a temporary file, open, that becomes `out` when the block ends well. Raises UserError or HostError."""
    try:
        with claimed(out) as part:
            with part.open("wb") as file:
                yield file
            if out.exists() and not force:
                raise UserError(f"{out} was written by another process meanwhile: choose another name")
    except BlockingIOError as error:
        raise UserError(f"another process is writing {out} just now") from error
    except OSError as error:
        raise cannot_write(out, error) from error
