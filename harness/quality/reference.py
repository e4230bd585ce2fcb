"""What samples are compared with: the digits, or a folder of images.

Shapes   N images, D features
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from arvbench.errors import ContractError, UserError
from arvbench.harness.digits import load_digits_rgb
from arvbench.harness.quality import digits_cnn
from arvbench.harness.quality.classifier import load_reference
from arvbench.harness.quality.extractors import BATCH, Extractor
from arvbench.harness.quality.protocol import ImagesDigest, images_sha256

DIGITS = "digits"
SUFFIXES = (".png", ".jpg", ".jpeg")
_MODES = ("RGB", "L")
"""Modes that become RGB without a decision about transparency, palette or ink."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Features of a reference set under one extractor."""

    name: str
    features_ND: Tensor
    """(N, D) fp32."""
    images_sha256: str
    """Digest of the pixels, in order."""
    image_shape: tuple[int, int]
    """Height and width."""
    moments: tuple[Tensor, Tensor] | None = None
    """Mean (D,) and covariance (D, D), fp64, when they are stored; else they follow from the features."""


def load_reference_set(reference: str, extractor: Extractor) -> Reference:
    """Return the features of "digits" or of a folder of images.

    The digits under `digits-cnn` come from the statistics that are part of this package. Raises UserError for a folder
    that is missing or empty, holds images of different sizes, or an image that cannot be read (named).
    """
    if reference == DIGITS:
        return _stored_digits(extractor) if extractor.name == digits_cnn.NAME else _digits(extractor)
    return _folder(Path(reference), extractor)


def reference_images(reference: str) -> Tensor | None:
    """Pixels (N, 3, H, W) uint8 of a reference that is a named data set; None for a folder, which may be any size."""
    return load_digits_rgb().images_N3HW if reference == DIGITS else None


def _stored_digits(extractor: Extractor) -> Reference:
    stored = load_reference()
    if stored.extractor_sha256 != extractor.sha256:
        raise ContractError(
            f"the stored statistics of the digits were made with other weights ({stored.extractor_sha256[:12]}) than "
            f"those of {extractor.name} ({extractor.sha256[:12]}); `arvbench train digits-cnn` makes both"
        )
    return Reference(
        name=DIGITS,
        features_ND=stored.features_ND,
        images_sha256=stored.images_sha256,
        image_shape=(digits_cnn.IMAGE_PX, digits_cnn.IMAGE_PX),
        moments=(stored.mu_D, stored.sigma_DD),
    )


def _digits(extractor: Extractor) -> Reference:
    images_N3HW = load_digits_rgb().images_N3HW
    return Reference(
        name=DIGITS,
        features_ND=extractor.extract(images_N3HW.split(BATCH)).features_ND,
        images_sha256=images_sha256(images_N3HW),
        image_shape=(images_N3HW.shape[2], images_N3HW.shape[3]),
    )


def _folder(folder: Path, extractor: Extractor) -> Reference:
    images = ImageFolder(folder)
    digest = ImagesDigest((len(images.paths), 3, *images.shape))
    features = extractor.extract(digest.watch(images.batches()))
    return Reference(
        name=folder.name,
        features_ND=features.features_ND,
        images_sha256=digest.hexdigest(),
        image_shape=images.shape,
    )


class ImageFolder:
    """PNG and JPEG files in a folder and its subfolders, in the order of their relative paths; all of one size."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UserError(f"reference {str(folder)!r} is neither {DIGITS!r} nor a folder of images")
        found = [p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()]
        self.paths: Sequence[Path] = sorted(found, key=lambda path: path.relative_to(folder).as_posix())
        if not self.paths:
            raise UserError(f"no images ({', '.join(SUFFIXES)}) in reference folder {folder}")

    @cached_property
    def shape(self) -> tuple[int, int]:
        """Height and width of the first image; `batches` refuses any other."""
        first = read_image(self.paths[0])
        return first.shape[1], first.shape[2]

    def batches(self) -> Iterator[Tensor]:
        """Yield uint8 (B, 3, H, W); one batch is in memory at a time."""
        for start in range(0, len(self.paths), BATCH):
            yield torch.stack([self._read(path) for path in self.paths[start : start + BATCH]])

    def _read(self, path: Path) -> Tensor:
        image_3HW = read_image(path)
        if image_3HW.shape[1:] != self.shape:
            raise UserError(
                f"images of different sizes: {self.paths[0]} is {self.shape[1]} x {self.shape[0]}, {path} is "
                f"{image_3HW.shape[2]} x {image_3HW.shape[1]}; resize them first"
            )
        return image_3HW


def read_image(path: Path) -> Tensor:
    """Return one picture file as uint8 (3, H, W). Raises UserError that names a file it cannot use."""
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode not in _MODES:
                raise UserError(f"{path} has colour mode {image.mode}; convert it to 8-bit RGB without transparency")
            pixels_HW3 = np.array(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is not a readable image: {error}") from error
    return torch.from_numpy(pixels_HW3).permute(2, 0, 1).contiguous()
