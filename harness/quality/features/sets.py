"""Features of an image set under one extractor: in memory, on disk, or as statistics alone.

Shapes   N images, D features of a layer
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor

from arvbench.errors import ContractError, UserError
from arvbench.harness.quality.metrics.moments import Moments, moments_of


class FeatureData(Protocol):
    """Features of one image set, as metrics read them."""

    @property
    def count(self) -> int:
        """Images with features."""
        ...

    def features(self, layer: str) -> Tensor:
        """Return (N, D) fp32. Raises UserError when only statistics are known."""
        ...

    def moments(self, layer: str) -> Moments:
        """Return mean and covariance, fp64."""
        ...


class FeatureSet:
    """Features in chunks of consecutive images; `load(chunk, layer)` returns one chunk, (n, D) fp32.

    Moments are summed chunk by chunk, in order, without all features in memory. `whole` holds layers that are already
    in memory, (N, D) each.
    """

    def __init__(
        self,
        load: Callable[[int, str], Tensor],
        *,
        chunks: int,
        count: int,
        whole: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._load, self._chunks, self._count = load, chunks, count
        self._features: dict[str, Tensor] = dict(whole or {})
        self._moments: dict[str, Moments] = {}

    @classmethod
    def of(cls, layers: Mapping[str, Tensor]) -> FeatureSet:
        """Wrap features in memory, layer -> (N, D), as one chunk."""
        counts = {len(features_ND) for features_ND in layers.values()}
        if len(counts) != 1:
            raise ContractError(f"layers of different numbers of images: {sorted(counts)}")
        return cls(lambda _chunk, layer: layers[layer], chunks=1, count=counts.pop(), whole=layers)

    @property
    def count(self) -> int:
        return self._count

    def blocks(self, layer: str) -> Iterator[Tensor]:
        """Yield the features chunk by chunk."""
        return (self._load(chunk, layer) for chunk in range(self._chunks))

    def features(self, layer: str) -> Tensor:
        if layer not in self._features:
            self._features[layer] = joined(self.blocks(layer), self._count)
        return self._features[layer]

    def moments(self, layer: str) -> Moments:
        if layer not in self._moments:
            self._moments[layer] = moments_of(self.blocks(layer))
        return self._moments[layer]


def joined(blocks: Iterable[Tensor], count: int) -> Tensor:
    """Concatenate blocks (n, ...) into `count` rows, holding at most one extra block in memory."""
    whole, done = torch.empty(0), 0
    for block in blocks:
        if done == 0:
            whole = torch.empty(count, *block.shape[1:], dtype=block.dtype)
        whole[done : done + len(block)] = block
        done += len(block)
    if done != count:
        raise ContractError(f"{done} rows of features for {count} images")
    return whole


class StoredStatistics:
    """Moments from a file, and the features of its images if it holds any."""

    def __init__(self, moments: Mapping[str, Moments], features: FeatureData | None = None, *, name: str) -> None:
        self._moments, self._features, self._name = moments, features, name

    @property
    def count(self) -> int:
        return 0 if self._features is None else self._features.count

    def features(self, layer: str) -> Tensor:
        if self._features is not None:
            return self._features.features(layer)
        raise UserError(
            f"{self._name} holds means and covariances only: precision, recall and kernel distances need its images"
        )

    def moments(self, layer: str) -> Moments:
        if layer in self._moments:
            return self._moments[layer]
        if self._features is not None:
            return self._features.moments(layer)
        raise UserError(f"{self._name} has no statistics of layer {layer!r}")
