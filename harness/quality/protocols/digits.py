"""Protocol `digits-cnn`: the offline protocol of the demo models, on the package's own digit classifier.

Its numbers compare demo models with each other, and with nothing published. The metrics are torch-fidelity's, on
float64 features and computed here; label accuracy; density and coverage; FID by class, and at infinitely many images.

label-accuracy  share of samples that the classifier assigns to their own label, 0..1

Shapes   N samples, D = 64 features, C = 10 classes
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from arvbench.errors import ContractError
from arvbench.harness.quality.extractors.extractor import Extractor
from arvbench.harness.quality.images.source import ImageSource
from arvbench.harness.quality.metrics.frechet_infinity import fewest_at_infinity
from arvbench.harness.quality.metrics.intervals import wilson_interval
from arvbench.harness.quality.protocols import fidelity, numbers
from arvbench.harness.quality.protocols.protocol import EvaluationProtocol, Metric, MetricInputs, MetricValue

ISC_MIN_SPLIT = 500
"""Fewest images of a split, because the score of a small split is biased; the number of splits falls instead."""
FEATURES, LOGITS, DIMS = "64", "logits", 64


def isc_splits(count: int) -> int:
    """Return the number of splits for the inception score of `count` samples: 1..10."""
    return max(1, min(fidelity.ISC_SPLITS, count // ISC_MIN_SPLIT))


def _isc(inputs: MetricInputs, layer: str) -> MetricValue:
    return fidelity.isc_in_float64(inputs, layer, splits=isc_splits(inputs.samples.count))


def _label_accuracy(inputs: MetricInputs, layer: str) -> MetricValue:
    logits_NC, labels_N = inputs.samples.features(layer), inputs.labels_N
    if labels_N is None or labels_N.shape != logits_NC.shape[:1]:
        raise ContractError(f"label accuracy of {len(logits_NC)} images without a label each")
    accuracy = float((logits_NC.argmax(dim=1) == labels_N.cpu()).double().mean())
    return MetricValue(value=accuracy, interval=wilson_interval(accuracy, len(logits_NC)))


def _why_no_accuracy(source: ImageSource, extractor: Extractor, _labels_M: Tensor | None) -> str | None:
    if source.labels_N is None:
        return f"{source.name} has no labels"
    if source.class_names:
        return f"the classes of {source.name} are names, those of {extractor.name} are numbers"
    if extractor.classes is None:
        return f"extractor {extractor.name} does not know the samples' classes"
    outside = source.labels_N[(source.labels_N < 0) | (source.labels_N >= extractor.classes)]
    if len(outside):
        return f"label {int(outside[0])} is not one of the {extractor.classes} classes of {extractor.name}"
    return None


DIGITS_CNN = EvaluationProtocol(
    name="digits-cnn",
    extractor="digits-cnn",
    metrics=(
        Metric("fid", FEATURES, reads="features", fewest=2, compute=fidelity.fid_in_float64),
        Metric(
            "fid-infinity",
            FEATURES,
            reads="features",
            fewest=fewest_at_infinity(DIMS),
            optional=True,
            compute=numbers.frechet_infinity,
        ),
        Metric("isc", LOGITS, fewest=2, compute=_isc),
        Metric("kid", FEATURES, reads="features", fewest=4, compute=fidelity.kid_in_float64),
        Metric("precision", FEATURES, reads="features", fewest=4, compute=fidelity.precision_in_float64),
        Metric("recall", FEATURES, reads="features", fewest=4, compute=fidelity.recall_in_float64),
        Metric("density", FEATURES, reads="features", fewest=6, compute=partial(numbers.prdc, "density")),
        Metric("coverage", FEATURES, reads="features", fewest=6, compute=partial(numbers.prdc, "coverage")),
        Metric(
            "per-class-fid",
            FEATURES,
            reads="features",
            fewest=20,
            optional=True,
            why_not=numbers.why_not_per_class,
            compute=numbers.per_class_frechet,
        ),
        Metric(
            "label-accuracy",
            LOGITS,
            optional=True,
            why_not=_why_no_accuracy,
            compute=_label_accuracy,
        ),
    ),
)
