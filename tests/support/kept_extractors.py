"""Passes over images whose extractors are loaded once, and see each batch of images once.

An Inception takes 0.2 s for an image. Tests of what is made of its features share them: other bytes are other features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from torch import Tensor

from arvbench.harness.quality.extractors.extractor import Extractor, load_extractor
from arvbench.harness.quality.features.feature_pass import FeaturePass

Network = Callable[[Tensor], Mapping[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class KeptPass(FeaturePass):
    """A pass in this process; `dims` leaves as many numbers of every layer, or of those that `cut` names."""

    dims: int | None = None
    cut: tuple[str, ...] = ()

    def extractor(self, name: str) -> Extractor:
        whole = _loaded(name, tuple(sorted(self.extractor_files.items())))
        if self.dims is None:
            return whole
        dims = {name: min(self.dims, size) for name, size in whole.layers.items() if name in (self.cut or whole.layers)}
        return replace(whole, network=_first(dims, whole.network), layers={**whole.layers, **dims})


@lru_cache(maxsize=3)
def _loaded(name: str, files: tuple[tuple[str, Path], ...]) -> Extractor:
    extractor = load_extractor(name, extractor_files=dict(files))
    return replace(extractor, network=_kept(extractor.network))


def _kept(network: Network) -> Network:
    known: dict[tuple[object, ...], Mapping[str, Tensor]] = {}

    def features(images_B3HW: Tensor) -> Mapping[str, Tensor]:
        key = (images_B3HW.shape, images_B3HW.numpy().tobytes())
        if key not in known:
            known[key] = network(images_B3HW)
        return known[key]

    return features


def _first(dims: Mapping[str, int], network: Network) -> Network:
    return lambda images_B3HW: {
        layer: values_BD[:, : dims.get(layer)] for layer, values_BD in network(images_B3HW).items()
    }
