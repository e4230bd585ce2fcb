"""From what the user names to a `Reference`: one pass over its images at most, and none where everything is stored.

Features of many images are kept in a cache folder (`$ARVBENCH_CACHE/references`, else `~/.cache/arvbench/references`),
so that the next evaluation against the same reference does not make them again, and one that was killed goes on.

Shapes   M reference images, D features of a layer
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from arvbench.adapters.checkpoints import sha256_of
from arvbench.errors import ContractError, UserError
from arvbench.files import cache_folder
from arvbench.harness.data import DATA_SETS
from arvbench.harness.quality.extractors.extractor import Extractor
from arvbench.harness.quality.features.chunks import LayerRequest, PassOver, Scan, folder_name, scan, task_key
from arvbench.harness.quality.features.sets import FeatureData, FeatureSet, StoredStatistics
from arvbench.harness.quality.images.open import open_images
from arvbench.harness.quality.images.source import ImageSource, Provenance
from arvbench.harness.quality.images.tensors import TensorSource
from arvbench.harness.quality.metrics.moments import Moments
from arvbench.harness.quality.protocols.protocol import Reads
from arvbench.harness.quality.reference.digits import load_reference as load_digits_statistics
from arvbench.harness.quality.reference.official import PublishedReference, recognise
from arvbench.harness.quality.reference.reference_set import Reference, check_shapes
from arvbench.harness.quality.reference.statistics import ADM_EXTRACTOR, StatisticsFile, holds_statistics

DIGITS = "digits"
"""Name of the data set that is part of scikit-learn."""
DIGITS_EXTRACTOR, DIGITS_LAYER = "digits-cnn", "64"
"""Extractor and layer whose statistics of the digits are part of this package."""
CACHED_FROM = 2000
"""Features of more images than this are kept in the cache."""

ReferenceLayers = Sequence[tuple[Extractor, Mapping[str, Reads]]]
"""By extractor: layer -> what is read of it. "features" includes the moments."""
Progress = Callable[[int], None]


def load_reference(
    reference: str,
    needs: ReferenceLayers,
    *,
    work: Path | None = None,
    progress: Progress | None = None,
    samples_shape: tuple[int, int] | None = None,
    pass_over: PassOver | None = None,
) -> Reference:
    """Return what `needs` asks of a reference: "digits", an .npz of statistics, or images (folder, .npz, .safetensors).

    `work` keeps features instead of the cache; `progress` hears how many images are done. With `samples_shape` a
    reference of another resolution is refused before any feature is extracted. `pass_over` may share the images of a
    file or folder among processes.

    Raises UserError for a path that is not there, a damaged or misshapen file, statistics that were made with other
    weights than those of `needs` or lack what they ask for, without images to extract it from; CheckpointError for
    features that are not finite.
    """
    asked = ReferenceRequest(
        needs=needs, work=work, progress=progress, samples_shape=samples_shape, pass_over=pass_over
    )
    if reference in DATA_SETS:
        return _data_set(reference, replace(asked, pass_over=None))  # other processes open images by their path
    path = _existing(reference)
    if holds_statistics(path):
        return _statistics(StatisticsFile(path), asked)
    return _images(open_images(path), asked)


def reference_images(reference: str) -> Tensor | None:
    """Pixels (M, 3, H, W) uint8 of a reference that is a named data set; None for any other, which may be any size."""
    return DATA_SETS[reference]().images_N3HW if reference in DATA_SETS else None


def reference_files(reference: str) -> list[Path]:
    """Files that a reference consists of; none for a named data set. Raises UserError when it is not there."""
    if reference in DATA_SETS:
        return []
    path = _existing(reference)
    if not path.is_dir():
        return [path]
    from arvbench.harness.quality.images.folder import FolderSource

    return list(FolderSource(path).paths)


def _existing(reference: str) -> Path:
    path = Path(reference).expanduser()
    if not path.exists():
        named = ", ".join(map(repr, DATA_SETS))
        raise UserError(
            f"reference {reference!r} is neither {named} nor a file or folder that is here: name an official .npz, "
            "a file of `arvbench reference make`, or images (a folder, .npz or .safetensors)"
        )
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceRequest:
    """What `load_reference` was called with."""

    needs: ReferenceLayers
    work: Path | None
    progress: Progress | None
    samples_shape: tuple[int, int] | None
    pass_over: PassOver | None

    def check(self, name: str, shape: tuple[int, int] | None) -> None:
        """Raise UserError for a reference of another resolution than the samples."""
        if self.samples_shape is not None:
            check_shapes(name, shape, self.samples_shape)

    def extract(self, source: ImageSource, wanted: LayerRequest) -> tuple[Scan, tuple[str, ...]]:
        """One pass, with finished chunks in `work` or, of many images, in the cache; and notes."""
        work = self.work
        notes: tuple[str, ...] = ()
        if work is None and wanted and source.count > CACHED_FROM:
            work, notes = _cache_for(source, wanted)
        if self.pass_over is None:
            return scan(source, wanted, work=work, progress=self.progress), notes
        return self.pass_over(source, wanted, work, self.progress or (lambda _done: None)), notes


def data_set_source(name: str) -> TensorSource:
    """Images of a named data set, in its order."""
    data_set = DATA_SETS[name]()
    return TensorSource(
        data_set.images_N3HW,
        name=name,
        labels_N=data_set.labels_N,
        provenance=Provenance(labels="data set", uint8_rule="none"),
    )


def _data_set(name: str, asked: ReferenceRequest) -> Reference:
    source = data_set_source(name)
    asked.check(name, source.shape)
    stored: dict[str, FeatureData] = {}
    missing: list[tuple[Extractor, frozenset[str]]] = []
    for extractor, layers in asked.needs:
        if (name, extractor.name) == (DIGITS, DIGITS_EXTRACTOR) and set(layers) <= {DIGITS_LAYER}:
            stored[extractor.name] = _digits_statistics(extractor)
        else:
            missing.append((extractor, frozenset(layers)))
    scanned, notes = asked.extract(source, missing)
    return Reference(
        name=name,
        sha256=scanned.images_sha256,
        image_shape=source.shape,
        labels_M=source.labels_N,
        data=stored | dict(scanned.features),
        images=source.count,
        statistics_images=source.count,
        origin="data set",
        notes=notes,
    )


def _digits_statistics(extractor: Extractor) -> StoredStatistics:
    stored = load_digits_statistics()
    if stored.extractor_sha256 != extractor.sha256:
        raise ContractError(
            f"the stored statistics of the digits were made with other weights ({stored.extractor_sha256[:12]}) than "
            f"those of {extractor.name} ({extractor.sha256[:12]}); `arvbench train digits-cnn` makes both"
        )
    moments = Moments(count=len(stored.features_ND), mean_D=stored.mu_D, cov_DD=stored.sigma_DD)
    features = FeatureSet.of({DIGITS_LAYER: stored.features_ND})
    return StoredStatistics({DIGITS_LAYER: moments}, [features], what=DIGITS)


def _images(source: ImageSource, asked: ReferenceRequest) -> Reference:
    asked.check(source.name, source.shape)
    scanned, notes = asked.extract(source, [(extractor, frozenset(layers)) for extractor, layers in asked.needs])
    return Reference(
        name=source.name,
        sha256=scanned.images_sha256,
        image_shape=source.shape,
        labels_M=source.labels_N,
        data=scanned.features,
        images=source.count,
        statistics_images=source.count,
        origin="images",
        notes=notes,
    )


def _statistics(stored: StatisticsFile, asked: ReferenceRequest) -> Reference:
    path, made = stored.path, stored.made
    source = open_images(path) if stored.has_images else None
    images = source.count if source else 0
    shape = source.shape if source else made.image_shape if made else None
    asked.check(path.name, shape)
    sha256 = sha256_of(path)
    published, notes = recognise(path, sha256, images, shape)
    if shape is None and published is not None:
        shape = (published.image_px, published.image_px)
        asked.check(path.name, shape)
    data, more_notes = _stored_and_extracted(stored, source, asked)
    return Reference(
        name=path.name,
        sha256=sha256,
        image_shape=shape,
        labels_M=source.labels_N if source else None,
        data=data,
        images=images,
        statistics_images=made.images if made else None,
        origin="published" if published else "made" if made else "statistics",
        use=published.use if published else made.use if made else "",
        official=published.name if published else "",
        notes=(*notes, *more_notes, *_weights_notes(published, asked.needs)),
    )


def _stored_and_extracted(
    stored: StatisticsFile, source: ImageSource | None, asked: ReferenceRequest
) -> tuple[dict[str, FeatureData], list[str]]:
    """What the file holds is read; what it lacks is extracted from its images, in one pass."""
    moments: dict[str, dict[str, Moments]] = {}
    features: dict[str, dict[str, Tensor]] = {}
    missing: list[tuple[Extractor, frozenset[str]]] = []
    notes: list[str] = []
    for extractor, layers in asked.needs:
        stored.check_extractor(extractor)
        name = extractor.name
        wanted = {layer for layer, need in layers.items() if need == "features"}
        moments[name] = stored.moments(extractor, layers)
        features[name] = stored.features(extractor, wanted, source.count) if source else {}
        absent = set(layers) - moments[name].keys()
        if lacking := absent | (wanted - features[name].keys()):
            if source is None:
                raise _lacks(stored, extractor, absent)
            missing.append((extractor, frozenset(lacking)))
        if source is not None:
            notes += _subset_notes(stored, source.count, name, absent=bool(absent), wanted=bool(wanted))
    extracted: Mapping[str, FeatureSet] = {}
    if missing and source is not None:
        scanned, cache_notes = asked.extract(source, missing)
        extracted, notes = scanned.features, [*notes, *cache_notes]
    data: dict[str, FeatureData] = {
        name: StoredStatistics(
            moments[name],
            _features(features[name], extracted.get(name)),
            what=f"reference {stored.path.name}",
        )
        for name in moments
    }
    return data, notes


def _lacks(stored: StatisticsFile, extractor: Extractor, absent: Collection[str]) -> UserError:
    """What to say of a file without images that lacks statistics or, where `absent` is empty, features."""
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


def _features(stored: Mapping[str, Tensor], extracted: FeatureSet | None) -> list[FeatureData]:
    """Features of the images in the file, from both places; none without images."""
    if not stored:
        return [] if extracted is None else [extracted]
    read = FeatureSet.of(stored)
    if extracted is None:
        return [read]

    def load(_chunk: int, layer: str) -> Tensor:
        return stored[layer] if layer in stored else extracted.features(layer)

    return [FeatureSet(load, chunks=1, count=read.count)]


def _subset_notes(stored: StatisticsFile, count: int, name: str, *, absent: bool, wanted: bool) -> list[str]:
    """What the reader must know when images in the file stand for all that are behind its statistics."""
    made = stored.made
    if made is not None and made.kept == made.images:
        return []
    of_all = f"{made.images:,} images that it was made from" if made else "data set behind its mu and sigma"
    of_those = f"those of the {count:,} images in {stored.path.name}, not of the {of_all}"
    if absent:
        return [f"{name}: statistics are {of_those}"]
    return [f"{name}: features are {of_those}"] if wanted and made is not None else []


def _weights_notes(published: PublishedReference | None, needs: ReferenceLayers) -> list[str]:
    """Statistics of the published network against features of another one measure how the networks differ."""
    if published is None:
        return []
    return [
        f"mu and sigma of {published.file_name} are of the published Inception weights: {extractor.note}"
        for extractor, _ in needs
        if extractor.name == ADM_EXTRACTOR and extractor.note
    ]


def _cache_for(source: ImageSource, wanted: LayerRequest) -> tuple[Path | None, tuple[str, ...]]:
    """A folder for these features; None, and a note, on a machine where none can be made."""
    folder = cache_folder("references") / folder_name(task_key(source, wanted))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return None, (f"features of the reference are not kept: cannot write to {folder} ({error.strerror or error})",)
    return folder, ()
