"""Protocols `prdc` and `prdc-dinov2`: precision, recall, density and coverage with five neighbours.

Source   Naeem et al. 2020 (arXiv:2002.09797); on DINOv2: Stein et al. 2023 (arXiv:2306.04675)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from arvbench.harness.quality.protocols.numbers import OneLayer, prdc_numbers
from arvbench.harness.quality.protocols.protocol import MetricInputs, MetricValue, Options, Reads

NEAREST_K = 5


class _PrdcProtocol(OneLayer):
    need: ClassVar[Reads] = "features"
    metrics: ClassVar[Mapping[str, int]] = dict.fromkeys(("precision", "recall", "density", "coverage"), NEAREST_K + 1)
    reference_metrics: ClassVar[frozenset[str]] = frozenset(metrics)

    def measure(self, metrics: Sequence[str], compared: MetricInputs, options: Options) -> list[MetricValue]:
        return prdc_numbers(metrics, compared, self.layer, k=NEAREST_K)


class Prdc(_PrdcProtocol):
    """On the pooled features (2048) of ADM's Inception."""

    name: ClassVar[str] = "prdc"
    extractor: ClassVar[str] = "adm-inception"
    layer: ClassVar[str] = "pool"


class PrdcDinov2(_PrdcProtocol):
    """On the class token (1024) of DINOv2 ViT-L/14."""

    name: ClassVar[str] = "prdc-dinov2"
    extractor: ClassVar[str] = "dinov2-vit-l-14"
    layer: ClassVar[str] = "cls"


PRDC = Prdc()
PRDC_DINOV2 = PrdcDinov2()
