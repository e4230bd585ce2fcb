"""Detectors of references that do not suit the samples."""

from __future__ import annotations

from collections.abc import Iterator

from arvbench.harness.quality.detectors.evidence import FRECHET, NEIGHBOURS, Evidence, finding, names
from arvbench.harness.quality.reference.official import STATED_IMAGES
from arvbench.results.schema import Finding

_PUBLISHED_PROTOCOL = "adm-v1"


def samples_are_reference(evidence: Evidence) -> Iterator[Finding]:
    """Samples that are the reference images themselves."""
    reference = evidence.reference
    if reference is not None and evidence.images_sha256 and reference.sha256 == evidence.images_sha256:
        yield finding(
            "samples-are-reference",
            "warning",
            f"the samples are the very images of {reference.name}: distances are zero and shares perfect whatever the "
            "model, so the numbers say nothing",
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
