"""Loader of a `Reference` by name or path: one pass over its images at most, none when all layers are stored.

Features of many images stay in a cache folder (`$ARVBENCH_CACHE/references`, else `~/.cache/arvbench/references`). The
next evaluation against that reference reuses them, and an interrupted one resumes.

Shapes   M reference images, D features of a layer
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from arvbench.adapters.checkpoints import sha256_of
from arvbench.errors import UserError
from arvbench.files import cache_folder
from arvbench.harness.data import DATA_SETS
from arvbench.harness.quality.extractors.extractor import Extractor
from arvbench.harness.quality.features.chunks import LayerRequest, Progress, Scan, folder_name, task_key
from arvbench.harness.quality.features.feature_pass import FeaturePass
from arvbench.harness.quality.features.sets import FeatureData, FeatureSet, StoredStatistics
from arvbench.harness.quality.images.folder import FolderSource
from arvbench.harness.quality.images.open import open_images
from arvbench.harness.quality.images.source import ImageSource, Provenance
from arvbench.harness.quality.images.tensors import TensorSource
from arvbench.harness.quality.metrics.moments import Moments
from arvbench.harness.quality.reference.digits import stored_digits
from arvbench.harness.quality.reference.official import PublishedReference, recognise
from arvbench.harness.quality.reference.reference_set import Reference, ReferenceLayers, check_resolution
from arvbench.harness.quality.reference.statistics import READERS, StatisticsFile, holds_statistics
from arvbench.harness.quality.reference.unreadable import check_kind
from arvbench.paths import printable, user_path

STORED_STATISTICS: Mapping[str, Callable[[Extractor, Collection[str]], FeatureData | None]] = {
    "digits": stored_digits,
}
"""Data set -> function (extractor, layers) -> packaged statistics, or None when these layers must be extracted."""
Shape = tuple[int, int]
"""Height and width."""
Extract = Callable[[ImageSource, LayerRequest], tuple[Scan, Sequence[str]]]
"""One pass over the images of a reference, and notes about it."""


def load_reference(
    reference: str,
    needs: ReferenceLayers,
    *,
    features: FeaturePass | None = None,
    progress: Progress | None = None,
    samples_shape: Shape | None = None,
    class_folders: bool = False,
) -> Reference:
    """Load a named data set, an .npz of statistics, or images (folder, .npz, .safetensors), with the layers `needs`.

    `features` extracts missing layers; its work folder belongs to the samples and is not used. A resolution other than
    `samples_shape` is refused before any feature is extracted. `class_folders`: the user says that the subfolders of a
    folder are classes.

    Raises UserError for a path that does not exist, a damaged or misshapen file, and statistics that were made with
    other weights or that lack a layer and the images to extract it from; CheckpointError for features that are not
    finite.
    """

    def extract(source: ImageSource, layers: LayerRequest) -> tuple[Scan, Sequence[str]]:
        uncached = replace(features or FeaturePass(), work=None)
        if not layers or source.count <= uncached.cache_from:
            return uncached.scan(source, layers, progress), ()
        folder = cache_folder("references") / folder_name(task_key(source, layers))
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            note = f"features of the reference are not kept: cannot write to {folder} ({error.strerror or error})"
            return uncached.scan(source, layers, progress), (note,)
        return replace(uncached, work=folder, folder_per_task=False).scan(source, layers, progress), ()

    if reference in DATA_SETS:
        return _from_images(data_set_source(reference), needs, samples_shape, extract, data_set=reference)
    path = _existing(reference)
    if holds_statistics(path):
        return _from_statistics(StatisticsFile(path), needs, samples_shape, extract)
    check_kind(path)
    source = open_images(path, class_folders=class_folders and path.is_dir())
    return _from_images(source, needs, samples_shape, extract)


def check_statistics(protocols: Sequence[str], reference: str) -> None:
    """Raise UserError for a reference without statistics, which `protocols` compare with alone."""
    if protocols and (reference in DATA_SETS or not holds_statistics(_existing(reference))):
        raise UserError(
            f"{protocols[0]} compares with published statistics (mu and sigma), such as adm_in256_stats.npz, and "
            f"reference {reference} has none: give that file, or ask for adm-v1 or torch-fidelity"
        )


def shadowed(reference: str) -> str:
    """Return a warning when the name of a data set is also that of a file or folder here, else ""."""
    if reference not in DATA_SETS or not Path(reference).exists():
        return ""
    return (
        f"{reference!r} is the data set of that name, not the {'folder' if Path(reference).is_dir() else 'file'} "
        f"{reference} of the working folder: write ./{reference} for that"
    )


def reference_images(reference: str) -> Tensor | None:
    """Return the pixels (M, 3, H, W) uint8 of a named data set; None for other references, which may be large."""
    return DATA_SETS[reference]().images_N3HW if reference in DATA_SETS else None


def data_set_source(name: str) -> TensorSource:
    """Return the images and labels of a named data set."""
    data_set = DATA_SETS[name]()
    return TensorSource(
        data_set.images_N3HW,
        name=name,
        labels_N=data_set.labels_N,
        provenance=Provenance(labels="data set", uint8_rule="none"),
    )


def reference_files(reference: str) -> list[Path]:
    """Return the files of a reference; none for a named data set. Raises UserError when it does not exist."""
    if reference in DATA_SETS:
        return []
    path = _existing(reference)
    return list(FolderSource(path).paths) if path.is_dir() else [path]


def _existing(reference: str) -> Path:
    path = user_path(reference)
    if not path.exists():
        raise UserError(
            f"reference {reference!r} is neither {', '.join(map(repr, DATA_SETS))} nor an existing file or "
            "folder: name an official .npz, a file of `arvbench reference make`, or images (a folder, .npz or "
            ".safetensors)"
        )
    return path


def _from_images(
    source: ImageSource,
    needs: ReferenceLayers,
    samples_shape: Shape | None,
    extract: Extract,
    data_set: str | None = None,
) -> Reference:
    """Extract all layers except those stored with the data set."""
    check_resolution(source.name, source.shape, samples_shape)
    stored_of = STORED_STATISTICS.get(data_set) if data_set else None
    stored: dict[str, FeatureData] = {}
    missing: list[tuple[Extractor, frozenset[str]]] = []
    for extractor, layers in needs:
        data = stored_of(extractor, layers) if stored_of else None
        if data is None:
            missing.append((extractor, frozenset(layers)))
        else:
            stored[extractor.name] = data
    scan, notes = extract(source, missing)
    passed_over = [f"in the reference {printable(source.name)}, {source.passed_over}"] if source.passed_over else []
    return Reference(
        name=printable(source.name),
        sha256=scan.images_sha256,
        image_shape=source.shape,
        labels_M=source.labels_N,
        class_names=tuple(source.class_names),
        data=stored | dict(scan.features),
        images=source.count,
        statistics_images=source.count,
        origin="data set" if data_set else "images",
        notes=(*notes, *passed_over),
        doubts=tuple(filter(None, [shadowed(data_set or "")])),
        digests_MB=scan.digests_ND,
        histogram=scan.histogram,
        images_sha256=scan.images_sha256,
    )


def _from_statistics(
    stored: StatisticsFile, needs: ReferenceLayers, samples_shape: Shape | None, extract: Extract
) -> Reference:
    path, record = stored.path, stored.record
    source = open_images(path) if stored.has_images else None
    images = source.count if source else 0
    shape = source.shape if source else record.image_shape if record else None
    check_resolution(path.name, shape, samples_shape)
    sha256 = sha256_of(path)
    published, notes = recognise(path, sha256, images, shape)
    if shape is None and published is not None:
        shape = (published.image_px, published.image_px)
        check_resolution(path.name, shape, samples_shape)
    data, scan, more_notes = _stored_and_extracted(stored, source, needs, extract)
    digests_NB = stored.digests()
    return Reference(
        name=printable(path.name),
        sha256=sha256,
        image_shape=shape,
        labels_M=source.labels_N if source else None,
        class_names=tuple(source.class_names) if source else (),
        data=data,
        images=images,
        statistics_images=record.images if record else None,
        origin="published" if published else "made" if record else "statistics",
        use=published.use if published else record.use if record else "",
        official=published.name if published else "",
        notes=(*notes, *more_notes, *_weights_notes(published, needs)),
        digests_MB=digests_NB if digests_NB is not None or scan is None else scan.digests_ND,
        histogram=scan.histogram if scan else None,
        images_sha256=record.images_sha256 if record else "",
    )


def _stored_and_extracted(
    stored: StatisticsFile, source: ImageSource | None, needs: ReferenceLayers, extract: Extract
) -> tuple[dict[str, FeatureData], Scan | None, list[str]]:
    """Read the layers that the file holds, and extract the others from its images in one pass; return notes too.

    The pass is also made for the digests of the images alone, when the file does not hold them.
    """
    moments: dict[str, dict[str, Moments]] = {}
    features: dict[str, dict[str, Tensor]] = {}
    missing: list[tuple[Extractor, frozenset[str]]] = []
    notes: list[str] = []
    for extractor, layers in needs:
        stored.check_extractor(extractor)
        name = extractor.name
        with_features = {layer for layer, part in layers.items() if part == "features"}
        moments[name] = stored.moments(extractor, layers)
        features[name] = stored.features(extractor, with_features, source.count) if source else {}
        absent = set(layers) - moments[name].keys()
        if lacking := absent | (with_features - features[name].keys()):
            if source is None:
                raise _missing_layers(stored, extractor, absent)
            missing.append((extractor, frozenset(lacking)))
        if source is not None:
            notes += _subset_notes(stored, source.count, name, absent=bool(absent), features=bool(with_features))
    scan: Scan | None = None
    if source is not None and (missing or stored.digests() is None):
        scan, more_notes = extract(source, missing)
        notes = [*notes, *more_notes]
    extracted: Mapping[str, FeatureSet] = scan.features if scan else {}
    data: dict[str, FeatureData] = {
        name: StoredStatistics(
            moments[name], _features(features[name], extracted.get(name)), name=f"reference {stored.path.name}"
        )
        for name in moments
    }
    return data, scan, notes


def _missing_layers(stored: StatisticsFile, extractor: Extractor, absent: Collection[str]) -> UserError:
    """Return the error for a file without images: it lacks the statistics `absent` or, if that is empty, features."""
    name = f"reference {stored.path.name}"
    if absent:
        return UserError(
            f"{name} has no statistics of {extractor.name} ({', '.join(sorted(absent))}) and no images to extract them "
            "from: take a reference with images, or ask for protocols whose statistics it has"
        )
    return UserError(
        f"{name} holds means and covariances only: precision, recall and kernel distances need its images; take a "
        "reference with images, or ask for other metrics (--metrics)"
    )


def _features(stored: Mapping[str, Tensor], extracted: FeatureSet | None) -> FeatureData | None:
    """Join stored and extracted features of the images in the file; None without images."""
    if not stored:
        return extracted
    in_file = FeatureSet.of(stored)
    if extracted is None:
        return in_file

    def load(_chunk: int, layer: str) -> Tensor:
        return stored[layer] if layer in stored else extracted.features(layer)

    return FeatureSet(load, chunks=1, count=in_file.count)


def _subset_notes(stored: StatisticsFile, count: int, name: str, *, absent: bool, features: bool) -> list[str]:
    """Return notes about a file that keeps only a subset of the images behind its statistics."""
    record = stored.record
    if record is not None and record.kept == record.images:
        return []
    full_set = f"{record.images:,} images that it was made from" if record else "data set behind its mu and sigma"
    subset = f"those of the {count:,} images in {stored.path.name}, not of the {full_set}"
    if absent:
        return [f"{name}: statistics are {subset}"]
    return [f"{name}: features are {subset}"] if features and record is not None else []


def _weights_notes(published: PublishedReference | None, needs: ReferenceLayers) -> list[str]:
    """Warn when published statistics meet features from other weights: the distance then measures the weights."""
    if published is None:
        return []
    return [
        f"mu and sigma of {published.file_name} are of the published Inception weights: {extractor.note}"
        for extractor, _ in needs
        if extractor.name in READERS and extractor.note
    ]
