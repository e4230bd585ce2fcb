"""Protocol `torch-fidelity`: ISC, FID, KID, precision and recall as that library computes them, by calling it.

Features go into the library's own functions as it extracts them, in fp32, with its own defaults: ten shuffled splits, a
hundred subsets of a thousand images, three neighbours. The functions here serve other extractors too.

Shapes   N samples, M reference images, D features, C classes
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, ClassVar

from torch import Tensor

from arvbench.harness.quality.metrics.neighbours import wilson_interval
from arvbench.harness.quality.protocols.numbers import few_images, frechet_interval, reference_of
from arvbench.harness.quality.protocols.protocol import EvaluationProtocol, MetricInputs, MetricValue, Options, Reads

RNG_SEED = 2020
"""The library's own: shuffles before the splits of the inception score and draws KID's subsets."""
ISC_SPLITS = 10
KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000
PRC_NEIGHBORHOOD = 3
PRC_BATCH = 10_000
"""Rows of the distance matrix in memory at a time; the library's default."""
T_975 = 2.262
"""97.5 % point of Student's t with nine degrees of freedom: ten splits."""


def library() -> str:
    return f"torch-fidelity {version('torch-fidelity')}"


class TorchFidelity(EvaluationProtocol):
    """torch-fidelity's metrics on its own InceptionV3."""

    name: ClassVar[str] = "torch-fidelity"
    extractor: ClassVar[str] = "fidelity-inception"
    metrics: ClassVar[Mapping[str, int]] = {
        "fid": 2,
        "isc": ISC_SPLITS,
        "kid": 4,
        "precision": PRC_NEIGHBORHOOD + 1,
        "recall": PRC_NEIGHBORHOOD + 1,
    }
    reference_metrics: ClassVar[frozenset[str]] = frozenset({"fid", "kid", "precision", "recall"})
    features: ClassVar[str] = "2048"
    logits: ClassVar[str] = "logits_unbiased"

    def layers(self, metrics: Sequence[str]) -> frozenset[str]:
        return frozenset(self.logits if metric == "isc" else self.features for metric in metrics)

    def reference_layers(self, metrics: Sequence[str]) -> Mapping[str, Reads]:
        # The library keeps features of both sides, also for FID.
        return {self.features: "features"} if self.reference_metrics.intersection(metrics) else {}

    def measure(self, metrics: Sequence[str], compared: MetricInputs, options: Options) -> list[MetricValue]:
        numbers: list[MetricValue] = []
        if "fid" in metrics:
            numbers.append(fid(compared, self.features, options))
        if "isc" in metrics:
            numbers.append(isc(compared.samples.features(self.logits), self.logits, splits=ISC_SPLITS))
        if "kid" in metrics:
            numbers.append(kid(compared, self.features))
        if {"precision", "recall"} & set(metrics):
            numbers += [n for n in precision_recall(compared, self.features) if n.metric in metrics]
        return numbers


TORCH_FIDELITY = TorchFidelity()


def fid(
    compared: MetricInputs, layer: str, options: Options, prepare: Callable[[Tensor], Tensor] = lambda x: x
) -> MetricValue:
    """FID by the library's functions; the interval is our bootstrap on the same features.

    `prepare` may turn features into float64 first: the library keeps the mean of fp32 features in fp32.
    """
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    reference = reference_of(compared)
    samples_ND = prepare(compared.samples.features(layer))
    generated, moments = fid_features_to_statistics(samples_ND), reference.moments(layer)
    if moments.count == reference.count:
        real = fid_features_to_statistics(prepare(reference.features(layer)))
    else:
        # A file of statistics keeps only some of the images that its mean and covariance are of.
        real = {"mu": moments.mean_D.numpy().astype(generated["mu"].dtype), "sigma": moments.cov_DD.numpy()}
    value = fid_statistics_to_metric(generated, real, verbose=False)[KEY_METRIC_FID]
    interval, spread = frechet_interval(compared, layer, options)
    return MetricValue(
        metric="fid",
        value=value,
        layer=layer,
        library=library(),
        uses_reference=True,
        interval=interval,
        parameters={"moments": f"{samples_ND.numpy().dtype}, N - 1", "root": "eigenvalues of the product"},
        detail={"bootstrap_std": spread} if spread is not None else {},
        notes=few_images(samples_ND.shape[1], len(samples_ND), moments.count),
    )


def isc(logits_NC: Tensor, layer: str, *, splits: int) -> MetricValue:
    """Inception score by the library: softmax and logarithm in float64, splits of a shuffled order.

    The interval is that of a mean over the splits (Student's t), for ten of them.
    """
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric

    out = isc_features_to_metric(logits_NC, splits=splits, shuffle=True, rng_seed=RNG_SEED)
    mean, std = out[KEY_METRIC_ISC_MEAN], out[KEY_METRIC_ISC_STD]
    half = T_975 * std / math.sqrt(splits - 1) if splits == ISC_SPLITS else None
    return MetricValue(
        metric="isc",
        value=mean,
        layer=layer,
        library=library(),
        uses_reference=False,
        spread=std if splits > 1 else None,
        interval=None if half is None else (mean - half, mean + half),
        parameters={"splits": splits, "shuffle_seed": RNG_SEED},
    )


def kid_subset_size(samples: int, reference: int) -> int:
    """Images of each set in one of KID's subsets: the library's 1,000, or half of a smaller set than that.

    Subsets that are the whole set would not differ, and the library refuses larger ones.
    """
    smaller = min(samples, reference)
    return KID_SUBSET_SIZE if smaller >= KID_SUBSET_SIZE else smaller // 2


def kid(compared: MetricInputs, layer: str, prepare: Callable[[Tensor], Tensor] = lambda x: x) -> MetricValue:
    """KID by the library: mean over random subsets, with their standard deviation.

    No interval: subsets share images, so their spread says little about the mean.
    """
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    samples_ND, real_MD = compared.samples.features(layer), reference_of(compared).features(layer)
    size = kid_subset_size(len(samples_ND), len(real_MD))
    out = kid_features_to_metric(
        prepare(samples_ND),
        prepare(real_MD),
        kid_subsets=KID_SUBSETS,
        kid_subset_size=size,
        rng_seed=RNG_SEED,
        verbose=False,
    )
    parameters: dict[str, Any] = {"subsets": KID_SUBSETS, "subset_size": size, "subset_seed": RNG_SEED}
    return MetricValue(
        metric="kid",
        value=out[KEY_METRIC_KID_MEAN],
        layer=layer,
        library=library(),
        uses_reference=True,
        spread=out[KEY_METRIC_KID_STD],
        parameters=parameters | {"kernel": "(x.y / D + 1) ** 3"},
    )


def precision_recall(
    compared: MetricInputs, layer: str, prepare: Callable[[Tensor], Tensor] = lambda x: x
) -> list[MetricValue]:
    """Precision and recall by the library, generated images first."""
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    samples_ND, real_MD = compared.samples.features(layer), reference_of(compared).features(layer)
    out = prc_features_to_metric(
        prepare(samples_ND),
        prepare(real_MD),
        prc_neighborhood=PRC_NEIGHBORHOOD,
        prc_batch_size=PRC_BATCH,
        save_cpu_ram=True,
        verbose=False,
    )
    found = (
        ("precision", out[KEY_METRIC_PRECISION], len(samples_ND)),
        ("recall", out[KEY_METRIC_RECALL], len(real_MD)),
    )
    return [
        MetricValue(
            metric=metric,
            value=value,
            layer=layer,
            library=library(),
            uses_reference=True,
            interval=wilson_interval(value, count),
            parameters={"neighborhood": PRC_NEIGHBORHOOD, "distance": "Euclidean"},
        )
        for metric, value, count in found
    ]
