"""The seam of all references: features, or their statistics, under the requested extractors.

Shapes   M reference images, D features of a layer
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from arvbench.errors import UserError
from arvbench.harness.quality.extractors.extractor import Extractor
from arvbench.harness.quality.features.sets import FeatureData
from arvbench.harness.quality.protocols.protocol import Reads

Use = Literal["gFID", "rFID", ""]
"""Purpose of a reference: "gFID" judges generated images (by statistics of the training set), "rFID" judges
reconstructions (by the validation images themselves), "" is unknown."""
Origin = Literal["published", "made", "statistics", "images", "data set"]
"""Origin of a reference: a file of the table of published ones, a file of `arvbench reference make`, statistics of
unknown origin, images, or a named data set."""
ReferenceLayers = Sequence[tuple[Extractor, Mapping[str, Reads]]]
"""Extractors, each with layer -> part of it that metrics read; "features" includes the moments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A set of real images that samples are compared with."""

    name: str
    """Short name for tables."""
    sha256: str
    """Digest of the statistics file, or of the images in order."""
    image_shape: tuple[int, int] | None
    """Height and width; None for statistics that do not state it."""
    labels_M: Tensor | None
    """(M,) int64 classes of the images with features, if known."""
    class_names: tuple[str, ...] = ()
    """Names of the classes 0, 1 ...; empty when labels are numbers with a meaning of their own."""
    data: Mapping[str, FeatureData]
    """Extractor -> features or statistics."""
    images: int
    """M: images with features. 0 for statistics alone."""
    statistics_images: int | None
    """Images behind the mean and covariance; None for published statistics that do not state it."""
    origin: Origin
    use: Use = ""
    official: str = ""
    """Name in the table of published references; empty for any other file."""
    notes: tuple[str, ...] = ()
    """Remarks for a reader of the numbers."""
    doubts: tuple[str, ...] = ()
    """Reasons to think that another reference was meant."""
    digests_MB: Tensor | None = None
    """(M, B) uint8: the first bytes, at least `SHORT_DIGEST`, of the sha256 of every image known to be in it."""
    histogram: Tensor | None = None
    """(256,) int64: count of every byte value of its images, if they were read."""
    images_sha256: str = ""
    """Digest of all images behind the statistics, in order; empty when it is unknown."""


def check_resolution(name: str, reference_shape: tuple[int, int] | None, samples_shape: tuple[int, int] | None) -> None:
    """Raise UserError when the reference called `name` has images of another size than the samples.

    Shapes are (height, width); None, an unknown size, passes.
    """
    if reference_shape is None or samples_shape is None or reference_shape == samples_shape:
        return
    (height, width), (reference_height, reference_width) = samples_shape, reference_shape
    raise UserError(
        f"samples are {width} x {height} and reference {name} is {reference_width} x {reference_height}: take a "
        "reference of the samples' size, or resize the samples by a named rule (--resize)"
    )
