"""Identity of a quality number: a hash over everything that could change it.

Numbers with different protocol ids never share a column, a plot or a delta.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_ID_DIGITS = 12


def protocol_id(fields: Mapping[str, Any]) -> str:
    """Return 12 hexadecimal digits that depend on every key and value and not on the order of keys.

    Values are what JSON can say; anything else raises TypeError, and NaN raises ValueError.
    """
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:_ID_DIGITS]


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """How one quality number is computed. Every field is part of its id."""

    metric: str
    extractor: str
    extractor_sha256: str
    """Digest of the weights file."""
    feature_layer: str
    preprocessing: str
    """Resize and normalisation between uint8 image and network."""
    reference_sha256: str
    """Digest of the reference's pixels; empty for a metric that has no reference."""
    n_samples: int
    image_shape: tuple[int, int]
    """Height and width of the samples, before any resize of the extractor."""
    label_scheme: str
    uint8_rule: str
    sampling: str
    """Anything else about how the samples came to be, in words; empty for plain samples of a model."""
    library: str
    """What computes the metric, with its version."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Splits, subsets, neighbourhood, seeds."""

    @property
    def id(self) -> str:
        return protocol_id(asdict(self))


class ImagesDigest:
    """Digest of uint8 images that come in batches; `shape` is that of all of them, (N, 3, H, W)."""

    def __init__(self, shape: Sequence[int]) -> None:
        self._digest = hashlib.sha256(repr(tuple(shape)).encode())

    def watch(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Pass batches on, and take in their pixels on the way."""
        for batch_B3HW in batches:
            self._digest.update(batch_B3HW.contiguous().cpu().numpy().tobytes())
            yield batch_B3HW

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def images_sha256(images_N3HW: Tensor) -> str:
    """Digest of the shape and the pixels of uint8 images (N, 3, H, W); batches of any size give the same."""
    digest = ImagesDigest(images_N3HW.shape)
    for _ in digest.watch([images_N3HW]):
        pass
    return digest.hexdigest()
