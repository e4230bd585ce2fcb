"""Features of an image set under one extractor: in memory, on disk, or as statistics alone.

Shapes   N images, D features of a layer
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from arvbench.errors import ContractError, UserError
from arvbench.harness.quality.metrics.moments import Moments, moments_of


class FeatureData(Protocol):
    """Seam between image sets and metrics: the features of one set."""

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
    """Features in chunks of consecutive images; `load(chunk, layer)` returns those of one chunk, (n, D) fp32.

    Moments are summed chunk by chunk in order, without all features in memory. `whole` holds the layers that are
    already in memory, each as one tensor.
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
        """Make one chunk of features that are all in memory."""
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
    """Moments from a file, with stored or extracted features for the layers that have them."""

    def __init__(self, moments: Mapping[str, Moments], features: Sequence[FeatureData] = (), *, what: str) -> None:
        self._moments, self._features, self._what = moments, features, what

    @property
    def count(self) -> int:
        return self._features[0].count if self._features else 0

    def features(self, layer: str) -> Tensor:
        for data in self._features:
            return data.features(layer)
        raise UserError(
            f"{self._what} holds means and covariances only: precision, recall and kernel distances need its images"
        )

    def moments(self, layer: str) -> Moments:
        if layer in self._moments:
            return self._moments[layer]
        for data in self._features:
            return data.moments(layer)
        raise UserError(f"{self._what} has no statistics of layer {layer!r}")
