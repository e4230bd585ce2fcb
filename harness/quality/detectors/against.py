"""Detectors of references that do not suit the samples."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from arvbench.harness.quality.detectors.evidence import FRECHET, NEIGHBOURS, Evidence, finding, names
from arvbench.harness.quality.detectors.samples import repeated_rows
from arvbench.harness.quality.identity import SHORT_DIGEST
from arvbench.harness.quality.reference.official import STATED_IMAGES
from arvbench.results.schema import Finding

_PUBLISHED_PROTOCOL = "adm-v1"
_ZERO = 1e-4
"""Largest Frechet distance, relative to the variance of the reference, that only equal sets have: independent ones of
50,000 images differ by a hundred times as much."""


def samples_are_reference(evidence: Evidence) -> Iterator[Finding]:
    """Samples that are reference images: all or some, in any order, or the images behind its statistics."""
    reference = evidence.reference
    if reference is None:
        return
    copies, known = _copies(evidence), 0 if reference.digests_MB is None else len(reference.digests_MB)
    same = bool(evidence.images_sha256) and evidence.images_sha256 in (reference.sha256, reference.images_sha256)
    zero = [facts for facts in evidence.metrics if facts.distance is not None and facts.distance <= _ZERO]
    vain = "distances are zero and shares perfect whatever the model, so the numbers say nothing"
    if same or copies == evidence.count == known:
        text = f"the samples are the very images of {reference.name}: {vain}"
    elif copies == evidence.count:
        text = (
            f"all {copies:,} samples are images of {reference.name}, pixel for pixel: the numbers are of the reference"
        )
    elif copies:
        text = (
            f"{copies:,} of {evidence.count:,} samples are images of {reference.name}, pixel for pixel: distances are "
            "too small and shares too large"
        )
    elif zero and not evidence.reconstructions:
        text = f"{names(zero)} is zero: the statistics in {reference.name} are those of the samples themselves, {vain}"
    else:
        return
    yield finding("samples-are-reference", "warning", text)


def _copies(evidence: Evidence) -> int:
    """Return the number of samples whose pixels are those of a known reference image."""
    reference = evidence.reference
    if reference is None or reference.digests_MB is None or reference.image_shape not in (None, evidence.shape):
        return 0
    return int(torch.isin(_keys(evidence.digests_ND), _keys(reference.digests_MB)).sum())


def _keys(digests_NB: Tensor) -> Tensor:
    """Return the first eight bytes of every digest as one number, (N,) int64."""
    return digests_NB[:, :SHORT_DIGEST].contiguous().view(torch.int64).flatten()


def copies_in_reference(evidence: Evidence) -> Iterator[Finding]:
    """Reference images with equal pixels: the radii around them are zero."""
    reference = evidence.reference
    repeats = None if reference is None or reference.digests_MB is None else repeated_rows(reference.digests_MB)
    if reference is None or reference.digests_MB is None or repeats is None:
        return
    count = len(reference.digests_MB)
    yield finding(
        "duplicate-reference-images",
        "warning",
        f"{repeats.count:,} of {count:,} images of {reference.name} are copies of an earlier one (first: image "
        f"{repeats.first[1]} of image {repeats.first[0]}): they count several times, and balls around images with "
        "many copies have radius zero, so precision, density and coverage are too low",
    )


def use_of_reference(evidence: Evidence) -> Iterator[Finding]:
    """Generated images against a validation set, or reconstructions against the training set's statistics."""
    reference = evidence.reference
    if reference is None:
        return
    if evidence.reconstructions and reference.use == "gFID":
        yield finding(
            "wrong-reference",
            "warning",
            f"reconstructions are compared with {reference.name}, which is for generated images (gFID, statistics of "
            "the training set): rFID is measured against the validation images that were reconstructed, and differs by "
            "whole units",
        )
    elif not evidence.reconstructions and reference.use == "rFID":
        yield finding(
            "wrong-reference",
            "warning",
            f"generated images are compared with {reference.name}, which is for reconstructions (rFID, the validation "
            "set): published gFID is against statistics of the training set, and differs by whole units",
        )


def origin_of_reference(evidence: Evidence) -> Iterator[Finding]:
    """Statistics of unknown origin or size, and the notes of the reference itself."""
    reference = evidence.reference
    if reference is None:
        return
    if reference.origin == "statistics":
        yield finding(
            "unknown-reference",
            "warning",
            f"{reference.name} (sha256 {reference.sha256[:12]}...) is none of the published references known here and "
            "does not say what it was made from: distances to it compare only with distances to this very file",
        )
    if reference.image_shape is None:
        yield finding(
            "reference-resolution",
            "note",
            f"{reference.name} does not say the size of its images; statistics of another size than "
            f"{evidence.shape[1]} x {evidence.shape[0]} would make every distance meaningless",
        )
    for doubt in reference.doubts:
        yield finding("reference-name", "warning", doubt)
    for note in reference.notes:
        yield finding("reference", "note", note)


def unpublished_images(evidence: Evidence) -> Iterator[Finding]:
    """gFID against unpublished images, such as an .npz of the validation set."""
    reference = evidence.reference
    if reference is None or reference.origin not in ("images", "data set") or evidence.reconstructions:
        return
    distances = [f for f in evidence.metrics if f.protocol == _PUBLISHED_PROTOCOL and f.metric in FRECHET]
    if distances:
        yield finding(
            "unpublished-reference",
            "warning",
            f"{reference.name} is {reference.images:,} images and none of the published reference files: published "
            f"gFID is against the statistics of the training set in those, so {names(distances)} compare with "
            "no published number",
        )


def few_reference_images(evidence: Evidence) -> Iterator[Finding]:
    """Precision and recall against fewer reference images than the published ones."""
    reference = evidence.reference
    if reference is None or reference.images >= STATED_IMAGES:
        return
    neighbours = [
        facts
        for facts in evidence.metrics
        if facts.protocol == _PUBLISHED_PROTOCOL and facts.metric.startswith(NEIGHBOURS)
    ]
    if neighbours:
        yield finding(
            "few-reference-images",
            "warning",
            f"{reference.name} holds {reference.images:,} images, published precision and recall are against "
            f"{STATED_IMAGES:,}: {names(neighbours)} compare with none of them",
        )
