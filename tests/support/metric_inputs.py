"""Inputs of metrics made of random features, without images or a network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from arvbench.harness.quality.extractors.extractor import Extractor
from arvbench.harness.quality.features.sets import FeatureData, FeatureSet
from arvbench.harness.quality.protocols.protocol import MetricInputs, Options

DIMS = 12
QUICK = Options(bootstrap=10, seed=3)


def features(count: int, seed: int, dims: int, shift: float = 0.0) -> Tensor:
    """Normal features (count, dims) fp32."""
    return torch.randn(count, dims, generator=torch.Generator().manual_seed(seed)) + shift


def inputs_of(
    samples: FeatureData | Tensor, reference: FeatureData | Tensor | None, layer: str, **more: Any
) -> MetricInputs:
    """Inputs with these features, or sets of them, in one layer."""

    def as_set(data: FeatureData | Tensor) -> FeatureData:
        return FeatureSet.of({layer: data}) if isinstance(data, Tensor) else data

    extractor = Extractor(
        name="made-up",
        network=lambda _images: {},
        layers={layer: 1},
        device=torch.device("cpu"),
        sha256="0" * 64,
        preprocessing="none",
    )
    return MetricInputs(
        samples=as_set(samples),
        reference=None if reference is None else as_set(reference),
        extractor=extractor,
        **more,
    )


def random_inputs(
    layer: str = "pool",
    *,
    count: int = 200,
    reference_count: int = 180,
    dims: int = DIMS,
    shift: float = 0.3,
    options: Options = QUICK,
) -> MetricInputs:
    """Samples and reference of four classes in turn."""
    return inputs_of(
        features(count, 1, dims, shift),
        features(reference_count, 2, dims),
        layer,
        labels_N=torch.arange(count) % 4,
        reference_labels_M=torch.arange(reference_count) % 4,
        options=options,
    )
