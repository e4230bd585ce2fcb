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
"""Size of the digest (sha256) of one image."""
SHORT_DIGEST = 8
"""Bytes of a digest that tell images apart: 50,000 and 1.3 million images collide with a probability of 4e-9."""


def protocol_id(fields: Mapping[str, Any]) -> str:
    """Return 12 hexadecimal digits that depend on every key and value but not on the order of keys.

    Values must be expressible in JSON: others raise TypeError, and NaN raises ValueError.
    """
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:_ID_DIGITS]


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Definition of one quality number. Every field is part of its id."""

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
    """Digest of the reference's pixels or of its statistics file; empty for a metric without a reference."""
    n_samples: int
    image_shape: tuple[int, int]
    """Height and width of the evaluated samples, before any resize by the extractor."""
    label_scheme: str
    uint8_rule: str
    resize: str
    """Resize between generator and evaluation, such as "bicubic:256"; "none" without one."""
    sampling: str
    """Origin of the samples, in words; empty for plain samples of a model."""
    library: str
    """Library that computes the metric, with its version."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Splits, subsets, neighbourhood, seeds."""

    @property
    def id(self) -> str:
        return protocol_id(asdict(self))


def image_digests(images_B3HW: Tensor) -> Tensor:
    """Return uint8 (B, 32): sha256 of every image's pixels, channels first."""
    import torch

    pixels = images_B3HW.contiguous().cpu().numpy()
    digests = b"".join(hashlib.sha256(image.tobytes()).digest() for image in pixels)
    return torch.frombuffer(bytearray(digests), dtype=torch.uint8).view(len(pixels), DIGEST_BYTES)


def digest_of_images(digests_ND: Tensor, shape: Sequence[int]) -> str:
    """Return the digest of an image sequence from its per-image digests (N, 32); `shape` is (height, width)."""
    digest = hashlib.sha256(repr((len(digests_ND), 3, *shape)).encode())
    digest.update(digests_ND.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


def images_sha256(images_N3HW: Tensor) -> str:
    """Return the digest of a sequence of uint8 images (N, 3, H, W)."""
    return digest_of_images(image_digests(images_N3HW), images_N3HW.shape[2:])
