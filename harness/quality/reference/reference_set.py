"""What every reference is: features or their statistics under the extractors that were asked for.

Shapes   M reference images, D features of a layer
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from arvbench.errors import UserError
from arvbench.harness.quality.features.sets import FeatureData

Use = Literal["gFID", "rFID", ""]
"""What a reference is meant for: "gFID" judges generated images (statistics of the training set), "rFID" judges
reconstructions (the validation images themselves), "" is not stated."""
Origin = Literal["published", "made", "statistics", "images", "data set"]
"""Where a reference comes from: a file of the table of published ones, a file of `arvbench reference make`, statistics
of unknown origin, images, or a named data set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What samples are compared with."""

    name: str
    """Short name for tables."""
    sha256: str
    """Digest of the statistics file, or of the images in order."""
    image_shape: tuple[int, int] | None
    """Height and width; None for statistics that do not say it."""
    labels_M: Tensor | None
    """(M,) int64 classes of the images whose features are here, where they are known."""
    data: Mapping[str, FeatureData]
    """By name of the extractor."""
    images: int
    """M: images whose features can be had. 0 for statistics alone."""
    statistics_images: int | None
    """Images behind the mean and covariance; None for published statistics that do not say it."""
    origin: Origin
    use: Use = ""
    official: str = ""
    """Name in the table of published references; empty for any other file."""
    notes: tuple[str, ...] = ()
    """What a reader of the numbers must know about it."""


def check_resolution(reference: Reference, samples_shape: tuple[int, int]) -> None:
    """Raise UserError when the reference is known to have images of another size than the samples."""
    check_shapes(reference.name, reference.image_shape, samples_shape)


def check_shapes(name: str, reference_shape: tuple[int, int] | None, samples_shape: tuple[int, int]) -> None:
    """The same, before the reference is loaded."""
    if reference_shape is None or reference_shape == samples_shape:
        return
    (height, width), (reference_height, reference_width) = samples_shape, reference_shape
    raise UserError(
        f"samples are {width} x {height} and reference {name} is {reference_width} x {reference_height}: take a "
        "reference of the samples' size, or resize the samples by a named rule (--resize)"
    )
