"""Protocol `per-class-fid`: Frechet distance between samples and reference images of the same class, averaged.

It sees what FID over all classes hides: a model that draws every class well and swaps two of them, or that has no
variety within a class. Its value depends strongly on the number of images per class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from arvbench.harness.quality.protocols.numbers import FEWEST_PER_CLASS, OneLayer, per_class_number
from arvbench.harness.quality.protocols.protocol import MetricInputs, MetricValue, Options, Reads


class PerClassFid(OneLayer):
    """On the pooled features (2048) of ADM's Inception; needs labels on both sides."""

    name: ClassVar[str] = "per-class-fid"
    extractor: ClassVar[str] = "adm-inception"
    layer: ClassVar[str] = "pool"
    need: ClassVar[Reads] = "features"
    metrics: ClassVar[Mapping[str, int]] = {"per-class-fid": FEWEST_PER_CLASS}
    reference_metrics: ClassVar[frozenset[str]] = frozenset(metrics)

    def measure(self, metrics: Sequence[str], compared: MetricInputs, options: Options) -> list[MetricValue]:
        return [per_class_number(compared, self.layer)] if "per-class-fid" in metrics else []


PER_CLASS_FID = PerClassFid()
