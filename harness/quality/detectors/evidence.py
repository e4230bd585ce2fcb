"""Evidence about one evaluation: the input of all detectors.

Shapes   N samples
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from arvbench.harness.quality.images.source import Provenance
from arvbench.harness.quality.reference.reference_set import Reference
from arvbench.results.schema import Finding, Quality

FRECHET = frozenset({"fid", "sfid"})
"""Metrics that are Frechet distances over all samples."""
NEIGHBOURS = ("precision", "recall", "density", "coverage")
"""Name prefixes of the metrics on nearest neighbours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricFacts:
    """One computed metric."""

    protocol: str
    metric: str
    dims: int
    """D of its layer."""
    distance: float | None = None
    """Value of a Frechet distance relative to the variance of the reference; None for other metrics."""

    @property
    def name(self) -> str:
        return f"{self.metric} of {self.protocol}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Samples, reference and numbers of one evaluation. Tensors are on the CPU."""

    samples: str
    """Name of the samples."""
    count: int
    """N."""
    shape: tuple[int, int]
    """Height and width."""
    provenance: Provenance
    digests_ND: Tensor
    """(N, 32) uint8: sha256 of every image."""
    histogram: Tensor
    """(256,) int64: count of every byte value."""
    images_sha256: str = ""
    """Digest of all images in order, computed like that of a reference of images."""
    metrics: Sequence[MetricFacts]
    numbers: Sequence[Quality]
    labels_N: Tensor | None = None
    seeds_N: Tensor | None = None
    class_names: Sequence[str] = ()
    """Names of the classes 0, 1 ... of samples and reference together; empty when labels are numbers."""
    classes: int | None = None
    """Number of classes that the extractor knows; None leaves it to the reference or the labels."""
    reference: Reference | None = None
    recipe: Mapping[str, str] = field(default_factory=dict)
    """Recipe of the model's official samples: `labels`, `uint8_rule`, `resize`, `images`."""
    files: Sequence[str] = ()
    """Relative names of the picture files, in reading order."""
    tf32: bool = False
    """True when this process drew the images and its settings allow TF32 for matrix products or convolutions."""
    autocast: bool = False
    """True when this process drew the images under autocast."""

    @property
    def reconstructions(self) -> bool:
        """True for reconstructions of real images, False for generated images."""
        return "reconstruction" in self.provenance.sampling


def names(metrics: Sequence[MetricFacts]) -> str:
    return ", ".join(facts.name for facts in metrics)


def finding(code: str, severity: Literal["note", "warning"], text: str) -> Finding:
    return Finding(code=code, severity=severity, text=text)
