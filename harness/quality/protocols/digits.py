"""Protocol `digits-cnn`: the offline protocol of the demo models, on the package's own digit classifier.

Its numbers compare models of the demo; they are comparable with nothing published. torch-fidelity's metrics on float64
features, label accuracy, density and coverage, FID by class and at infinitely many images.

label-accuracy  share of samples that the classifier gives their own label, 0..1

Shapes   N samples, D = 64 features, C = 10 classes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor

from arvbench.errors import ContractError
from arvbench.harness.quality.metrics.frechet import fewest_at_infinity
from arvbench.harness.quality.metrics.neighbours import wilson_interval
from arvbench.harness.quality.protocols.fidelity import ISC_SPLITS, fid, isc, kid, precision_recall
from arvbench.harness.quality.protocols.numbers import LIBRARY, frechet_numbers, per_class_number, prdc_numbers
from arvbench.harness.quality.protocols.protocol import EvaluationProtocol, MetricInputs, MetricValue, Options, Reads

ISC_MIN_SPLIT = 500
"""Fewer than ten splits where a split would hold fewer images: the score of a small split is biased."""
FEATURES, LOGITS, DIMS = "64", "logits", 64


class DigitsCnnProtocol(EvaluationProtocol):
    """All that the digits can be judged by."""

    name: ClassVar[str] = "digits-cnn"
    extractor: ClassVar[str] = "digits-cnn"
    metrics: ClassVar[Mapping[str, int]] = {
        "fid": 2,
        "fid-infinity": fewest_at_infinity(DIMS),
        "isc": 2,
        "kid": 4,
        "precision": 4,
        "recall": 4,
        "density": 6,
        "coverage": 6,
        "per-class-fid": 20,
        "label-accuracy": 1,
    }
    reference_metrics: ClassVar[frozenset[str]] = frozenset(metrics) - {"isc", "label-accuracy"}

    def layers(self, metrics: Sequence[str]) -> frozenset[str]:
        return frozenset(LOGITS if metric in ("isc", "label-accuracy") else FEATURES for metric in metrics)

    def reference_layers(self, metrics: Sequence[str]) -> Mapping[str, Reads]:
        return {FEATURES: "features"} if self.reference_metrics.intersection(metrics) else {}

    def measure(self, metrics: Sequence[str], compared: MetricInputs, options: Options) -> list[MetricValue]:
        numbers: list[MetricValue] = []
        if "fid" in metrics:
            numbers.append(fid(compared, FEATURES, options, prepare=Tensor.double))
        numbers += frechet_numbers(metrics, compared, FEATURES, options, distance="")
        if "isc" in metrics:
            logits_NC = compared.samples.features(LOGITS)
            numbers.append(isc(logits_NC, LOGITS, splits=isc_splits(len(logits_NC))))
        if "kid" in metrics:
            numbers.append(kid(compared, FEATURES, prepare=Tensor.double))
        if {"precision", "recall"} & set(metrics):
            found = precision_recall(compared, FEATURES, prepare=Tensor.double)
            numbers += [number for number in found if number.metric in metrics]
        numbers += prdc_numbers([m for m in metrics if m in ("density", "coverage")], compared, FEATURES)
        if "per-class-fid" in metrics:
            numbers.append(per_class_number(compared, FEATURES))
        if "label-accuracy" in metrics:
            numbers.append(_label_accuracy(compared))
        return numbers


DIGITS_CNN = DigitsCnnProtocol()


def isc_splits(count: int) -> int:
    """Splits of the inception score of `count` samples."""
    return max(1, min(ISC_SPLITS, count // ISC_MIN_SPLIT))


def _label_accuracy(compared: MetricInputs) -> MetricValue:
    logits_NC, labels_N = compared.samples.features(LOGITS), compared.labels_N
    if labels_N is None or labels_N.shape != logits_NC.shape[:1]:
        raise ContractError(f"label accuracy of {len(logits_NC)} images without a label each")
    accuracy = float((logits_NC.argmax(dim=1) == labels_N.cpu()).double().mean())
    return MetricValue(
        metric="label-accuracy",
        value=accuracy,
        layer=LOGITS,
        library=LIBRARY,
        uses_reference=False,
        interval=wilson_interval(accuracy, len(logits_NC)),
    )
