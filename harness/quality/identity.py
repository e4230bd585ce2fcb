"""Identity of a quality number: a hash over everything that could change it.

Numbers with different protocol ids never share a column, a plot or a delta.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_ID_DIGITS = 12
DIGEST_BYTES = 32
"""Bytes of an image's digest (sha256)."""


def protocol_id(fields: Mapping[str, Any]) -> str:
    """Return 12 hexadecimal digits that depend on every key and value and not on the order of keys.

    Values are what JSON can say; anything else raises TypeError, and NaN raises ValueError.
    """
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:_ID_DIGITS]


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """How one quality number is computed. Every field is part of its id."""

    metric: str
    protocol: str
    """Name in the protocol table, such as "adm-v1"."""
    extractor: str
    extractor_sha256: str
    """Digest of the weights file."""
    layer: str
    preprocessing: str
    """Resize and normalisation between uint8 image and network."""
    reference_sha256: str
    """Digest of the reference (of its pixels or of its statistics file); empty for a metric that has none."""
    n_samples: int
    image_shape: tuple[int, int]
    """Height and width of the samples as they are evaluated, before any resize of the extractor."""
    label_scheme: str
    uint8_rule: str
    resize: str
    """Resize between generator and evaluation, such as "bicubic:256"; "none" without one."""
    sampling: str
    """Anything else about how the samples came to be, in words; empty for plain samples of a model."""
    library: str
    """What computes the metric, with its version."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Splits, subsets, neighbourhood, seeds."""

    @property
    def id(self) -> str:
        return protocol_id(asdict(self))


def image_digests(images_B3HW: Tensor) -> Tensor:
    """Return uint8 (B, 32): sha256 of every image's pixels, channels first. Equal images have equal digests."""
    import torch

    pixels = images_B3HW.contiguous().cpu().numpy()
    digests = b"".join(hashlib.sha256(image.tobytes()).digest() for image in pixels)
    return torch.frombuffer(bytearray(digests), dtype=torch.uint8).view(len(pixels), DIGEST_BYTES)


def digest_of_images(digests_ND: Tensor, shape: Sequence[int]) -> str:
    """Digest of a set of images in order, from the digests of each; `shape` is (height, width) of all of them."""
    whole = hashlib.sha256(repr((len(digests_ND), 3, *shape)).encode())
    whole.update(digests_ND.contiguous().cpu().numpy().tobytes())
    return whole.hexdigest()


def images_sha256(images_N3HW: Tensor) -> str:
    """Digest of uint8 images (N, 3, H, W) in order."""
    return digest_of_images(image_digests(images_N3HW), images_N3HW.shape[2:])
