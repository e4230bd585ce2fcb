"""What an evaluation protocol is, and the table of those there are.

Shapes   N samples, M reference images, D features
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from arvbench.errors import UserError
from arvbench.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from arvbench.harness.quality.extractors.extractor import Extractor
    from arvbench.harness.quality.features.sets import FeatureData

Reads = Literal["moments", "features"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a caller may choose without changing what a number means."""

    bootstrap: int = 100
    """Replicates behind an interval; 0 for none, else at least 2."""
    seed: int = 0
    """Of the bootstrap: it moves intervals, no value. Seeds that move values belong to protocols and their ids."""

    def __post_init__(self) -> None:
        if self.bootstrap < 0 or self.bootstrap == 1:
            raise UserError(f"{self.bootstrap} bootstrap replicates: an interval needs at least 2; 0 asks for none")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed {self.seed} is not in 0..2**63 - 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricInputs:
    """What a protocol works on."""

    samples: FeatureData
    reference: FeatureData | None
    """None when no metric that is asked for needs one."""
    extractor: Extractor
    labels_N: Tensor | None = None
    """(N,) int64 classes of the samples, where they are known."""
    reference_labels_M: Tensor | None = None
    balanced: bool = False
    """Whether the samples have a fixed number of every class by their scheme."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricValue:
    """One metric's value, before it gets its identity."""

    metric: str
    value: float
    layer: str
    library: str
    """What computed it, with its version: "arvbench" or "torch-fidelity 0.4.0"."""
    uses_reference: bool
    spread: float | None = None
    """Standard deviation over splits or subsets, where the metric has them."""
    interval: tuple[float, float] | None = None
    """95 % interval, where one can be had."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """What could change the value: splits, neighbourhood, seeds. Part of the id."""
    detail: Mapping[str, Any] = field(default_factory=dict)
    """What is worth knowing about the value and does not change it: clamped mass, values by class."""
    notes: tuple[str, ...] = ()


class EvaluationProtocol(Protocol):
    """A named way from features to numbers. Protocols are subclasses, for the parts that have a body here."""

    name: ClassVar[str]
    extractor: ClassVar[str]
    """Name in EXTRACTORS."""
    metrics: ClassVar[Mapping[str, int]]
    """Metric -> fewest images (of samples, and of a reference with images) that define it; in order of display."""
    reference_metrics: ClassVar[frozenset[str]]
    """Metrics that need a reference."""

    def check(self, metrics: Sequence[str]) -> None:
        """Raise UserError or HostError for what this machine cannot compute, before any image is read."""
        return

    def layers(self, metrics: Sequence[str]) -> frozenset[str]:
        """Layers of the extractor that these metrics read of the samples."""
        ...

    def reference_layers(self, metrics: Sequence[str]) -> Mapping[str, Reads]:
        """Layer -> what these metrics read of the reference."""
        ...

    def measure(self, metrics: Sequence[str], compared: MetricInputs, options: Options) -> list[MetricValue]:
        """Return the numbers of these metrics, in the order of `self.metrics`."""
        ...


PROTOCOLS: Registry[EvaluationProtocol] = Registry(
    "protocol",
    {
        "adm-v1": "arvbench.harness.quality.protocols.adm:ADM_V1",
        "torch-fidelity": "arvbench.harness.quality.protocols.fidelity:TORCH_FIDELITY",
        "clean-fid": "arvbench.harness.quality.protocols.clean_fid:CLEAN",
        "clean-fid-legacy-tensorflow": "arvbench.harness.quality.protocols.clean_fid:LEGACY_TENSORFLOW",
        "clean-fid-legacy-pytorch": "arvbench.harness.quality.protocols.clean_fid:LEGACY_PYTORCH",
        "clip-fid": "arvbench.harness.quality.protocols.frechet:CLIP_FID",
        "cmmd": "arvbench.harness.quality.protocols.cmmd:CMMD",
        "fd-dinov2": "arvbench.harness.quality.protocols.frechet:FD_DINOV2",
        "prdc": "arvbench.harness.quality.protocols.prdc:PRDC",
        "prdc-dinov2": "arvbench.harness.quality.protocols.prdc:PRDC_DINOV2",
        "per-class-fid": "arvbench.harness.quality.protocols.per_class:PER_CLASS_FID",
        "digits-cnn": "arvbench.harness.quality.protocols.digits:DIGITS_CNN",
    },
)
