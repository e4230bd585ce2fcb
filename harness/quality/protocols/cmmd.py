"""Protocol `cmmd`: kernel distance of CLIP embeddings; needs no Gaussian assumption and few images.

Source   Jayasumana et al. 2024 (arXiv:2401.09603)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from arvbench.harness.quality.metrics.mmd import SCALE, SIGMA, cmmd
from arvbench.harness.quality.protocols.numbers import LIBRARY, OneLayer, reference_of
from arvbench.harness.quality.protocols.protocol import MetricInputs, MetricValue, Options, Reads


class Cmmd(OneLayer):
    """On the embedding (768) of CLIP ViT-L/14 at 336 pixels."""

    name: ClassVar[str] = "cmmd"
    extractor: ClassVar[str] = "clip-vit-l-14-336"
    layer: ClassVar[str] = "embedding"
    need: ClassVar[Reads] = "features"
    metrics: ClassVar[Mapping[str, int]] = {"cmmd": 2}
    reference_metrics: ClassVar[frozenset[str]] = frozenset({"cmmd"})

    def measure(self, metrics: Sequence[str], compared: MetricInputs, options: Options) -> list[MetricValue]:
        if "cmmd" not in metrics:
            return []
        value = cmmd(
            compared.samples.features(self.layer),
            reference_of(compared).features(self.layer),
            device=compared.extractor.device,
        )
        return [
            MetricValue(
                metric="cmmd",
                value=value,
                layer=self.layer,
                library=LIBRARY,
                uses_reference=True,
                parameters={
                    "kernel": "exp(-|x - y|^2 / (2 sigma^2))",
                    "sigma": SIGMA,
                    "scale": SCALE,
                    "estimator": "all pairs, itself included",
                    "embeddings": "length 1",
                },
            )
        ]


CMMD = Cmmd()
