"""Protocols `clip-fid` and `fd-dinov2`: Frechet distance on features of other networks than Inception.

fid           Frechet distance with its bootstrap interval
fid-infinity  the same for infinitely many samples

Source   clip-fid: Kynkaanniemi et al. 2023 (arXiv:2203.06026). fd-dinov2: Stein et al. 2023 (arXiv:2306.04675)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from arvbench.harness.quality.metrics.frechet import fewest_at_infinity
from arvbench.harness.quality.protocols.numbers import OneLayer, frechet_numbers
from arvbench.harness.quality.protocols.protocol import MetricInputs, MetricValue, Options, Reads


class _FrechetProtocol(OneLayer):
    need: ClassVar[Reads] = "moments"
    reference_metrics: ClassVar[frozenset[str]] = frozenset({"fid", "fid-infinity"})

    def measure(self, metrics: Sequence[str], compared: MetricInputs, options: Options) -> list[MetricValue]:
        return frechet_numbers(metrics, compared, self.layer, options)


class ClipFid(_FrechetProtocol):
    """On the embedding (512) of CLIP ViT-B/32."""

    name: ClassVar[str] = "clip-fid"
    extractor: ClassVar[str] = "clip-vit-b-32"
    layer: ClassVar[str] = "embedding"
    metrics: ClassVar[Mapping[str, int]] = {"fid": 2, "fid-infinity": fewest_at_infinity(512)}


class FdDinov2(_FrechetProtocol):
    """On the class token (1024) of DINOv2 ViT-L/14."""

    name: ClassVar[str] = "fd-dinov2"
    extractor: ClassVar[str] = "dinov2-vit-l-14"
    layer: ClassVar[str] = "cls"
    metrics: ClassVar[Mapping[str, int]] = {"fid": 2, "fid-infinity": fewest_at_infinity(1024)}


CLIP_FID = ClipFid()
FD_DINOV2 = FdDinov2()
