"""Evaluation protocols as data: a name, an extractor and a tuple of metrics.

A metric is declared once, in its protocol. Everything else follows from the declarations: the layers to
extract, the content of a reference, the fewest images, optional metrics, and the order of the results.

Shapes   N samples, M reference images, D features of a layer
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar, cast

from arvbench.errors import ContractError, UnknownName, UserError
from arvbench.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from arvbench.harness.quality.extractors.extractor import Extractor
    from arvbench.harness.quality.features.sets import FeatureData
    from arvbench.harness.quality.images.source import ImageSource

P = ParamSpec("P")
T = TypeVar("T")

Reads = Literal["moments", "features"]
"""Reference data that a metric reads of a layer; features include moments."""

OWN_LIBRARY = "arvbench (numerics 1)"
"""Increase the number when a change of this package's arithmetic moves a value: it is part of their ids."""


def with_version(distribution: str) -> str:
    """Return the name of an installed library with its version."""
    return f"{distribution} {version(distribution)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Settings that do not change the meaning of a number."""

    bootstrap: int | None = None
    """Interval of a Frechet distance: None for the jackknife, else the replicates of a bootstrap, at least 2; 0 for no
    interval."""
    seed: int = 0
    """Seed of the bootstrap. It moves intervals only; seeds that move values are constants of a protocol."""

    def __post_init__(self) -> None:
        if self.bootstrap is not None and (self.bootstrap < 0 or self.bootstrap == 1):
            raise UserError(f"{self.bootstrap} bootstrap replicates: an interval needs at least 2; 0 asks for none")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed {self.seed} is not in 0..2**63 - 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricInputs:
    """Features and labels from which the metrics of one protocol are computed."""

    samples: FeatureData
    reference: FeatureData | None
    """None when no requested metric compares with a reference."""
    extractor: Extractor
    labels_N: Tensor | None = None
    """(N,) int64 classes of the samples, if known."""
    reference_labels_M: Tensor | None = None
    """(M,) int64 classes of the reference images, if known."""
    class_names: Sequence[str] = ()
    """Names of the classes 0, 1 ... of both; empty when labels are numbers."""
    balanced: bool = False
    """True when the label scheme fixes the number of samples per class."""
    options: Options = field(default_factory=Options)
    _results: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def require_reference(self) -> FeatureData:
        """Return the reference. Raise ContractError when there is none."""
        if self.reference is None:
            raise ContractError("a metric that compares with a reference was asked for without one")
        return self.reference

    def features(self, layer: str) -> tuple[Tensor, Tensor]:
        """Return the features of the samples (N, D) and of the reference (M, D), both fp32."""
        return self.samples.features(layer), self.require_reference().features(layer)

    def once(self, function: Callable[Concatenate[MetricInputs, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return `function(self, ...)`, cached at the first call, for work that metrics share."""
        key = (function, args, tuple(sorted(kwargs.items())))
        if key not in self._results:
            self._results[key] = function(self, *args, **kwargs)
        return cast(T, self._results[key])


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricValue:
    """One computed number, before it gets its identity."""

    value: float
    library: str = OWN_LIBRARY
    """Library and version that computed it, such as "torch-fidelity 0.4.0"."""
    spread: float | None = None
    """Standard deviation over splits or subsets, for metrics that have them."""
    interval: tuple[float, float] | None = None
    """95 % interval, for metrics that have one."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Everything that could change the value: splits, neighbourhood, seeds. Part of the id."""
    detail: Mapping[str, Any] = field(default_factory=dict)
    """Facts about the value that cannot change it: clamped mass, values by class."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Metric:
    """One number of a protocol."""

    name: str
    layer: str
    """Layer of the extractor, for samples and reference."""
    _: KW_ONLY
    compute: Callable[[MetricInputs, str], MetricValue]
    """Function of the inputs and the layer."""
    reads: Reads | None = None
    """Reference data that it reads of the layer; None for a metric of the samples alone."""
    fewest: int = 1
    """Fewest samples that define it, and fewest reference images if it reads their features."""
    optional: bool = False
    """True: left out, with a finding, when it cannot be computed and was not requested by name."""
    why_not: Callable[[ImageSource, Extractor, Tensor | None], str | None] | None = None
    """(samples, extractor, reference labels (M,)) -> reason, besides too few samples, why an optional metric cannot be
    computed, or None when it can."""
    check: Callable[[], None] | None = None
    """Raises UserError or HostError when this machine cannot compute it; called before any image is read."""

    def measure(self, inputs: MetricInputs) -> MetricValue:
        """Compute the metric on its layer."""
        return self.compute(inputs, self.layer)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationProtocol:
    """An extractor and its metrics, under one name."""

    name: str
    extractor: str
    """Name in EXTRACTORS."""
    metrics: tuple[Metric, ...]
    """In order of display."""
    statistics_only: bool = False
    """True when the protocol compares with a file of statistics alone, never with images."""

    def metric(self, name: str) -> Metric:
        """Return one of the metrics. Raise UnknownName, naming near misses."""
        by_name = {metric.name: metric for metric in self.metrics}
        if name not in by_name:
            raise UnknownName(f"metric of {self.name}", name, by_name)
        return by_name[name]


def reference_layers(uses: Iterable[tuple[str, Sequence[Metric]]]) -> dict[str, dict[str, Reads]]:
    """Return extractor -> layer -> reference data that the (extractor, metrics) pairs read."""
    by_extractor: dict[str, dict[str, Reads]] = {}
    for extractor, metrics in uses:
        of_features = {metric.layer for metric in metrics if metric.reads == "features"}
        names = dict.fromkeys(metric.layer for metric in metrics if metric.reads is not None)
        # Layers of moments alone come first; reference files keep this order, and their digest depends on it.
        for layer in sorted(names, key=lambda layer: layer in of_features):
            layers = by_extractor.setdefault(extractor, {})
            if layers.get(layer) != "features":
                layers[layer] = "features" if layer in of_features else "moments"
    return by_extractor


PROTOCOLS: Registry[EvaluationProtocol] = Registry(
    "protocol",
    {
        "adm-v1": "arvbench.harness.quality.protocols.adm:ADM_V1",
        "torch-fidelity": "arvbench.harness.quality.protocols.fidelity:TORCH_FIDELITY",
        "torch-fidelity-adm": "arvbench.harness.quality.protocols.fidelity_statistics:TORCH_FIDELITY_ADM",
        "clean-fid": "arvbench.harness.quality.protocols.clean_fid:CLEAN",
        "clean-fid-legacy-tensorflow": "arvbench.harness.quality.protocols.clean_fid:LEGACY_TENSORFLOW",
        "clean-fid-legacy-pytorch": "arvbench.harness.quality.protocols.clean_fid:LEGACY_PYTORCH",
        "clip-fid": "arvbench.harness.quality.protocols.single_layer:CLIP_FID",
        "cmmd": "arvbench.harness.quality.protocols.single_layer:CMMD",
        "fd-dinov2": "arvbench.harness.quality.protocols.single_layer:FD_DINOV2",
        "prdc": "arvbench.harness.quality.protocols.single_layer:PRDC",
        "prdc-dinov2": "arvbench.harness.quality.protocols.single_layer:PRDC_DINOV2",
        "per-class-fid": "arvbench.harness.quality.protocols.single_layer:PER_CLASS_FID",
        "digits-cnn": "arvbench.harness.quality.protocols.digits:DIGITS_CNN",
    },
)
