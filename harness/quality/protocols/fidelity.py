"""Protocol `torch-fidelity`: ISC, FID, KID, precision and recall by that library's own functions.

They get fp32 features and the library's defaults: ten shuffled splits, a hundred subsets of a thousand images, three
neighbours. The functions whose names end in `float64` serve other extractors. They give the library's numbers for
float64 features, because it keeps the mean of fp32 features in fp32, from our own code: the library is imported by its
own protocol alone. `computed_by` among the details says which ran.

Shapes   N samples, M reference images, D features, C classes
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from arvbench.harness.quality.metrics.as_torch_fidelity import (
    GaussianFit,
    frechet_of_product,
    gaussian_fit,
    precision_recall_of_batches,
    shuffled_score,
)
from arvbench.harness.quality.metrics.intervals import interval_of_mean, wilson_interval
from arvbench.harness.quality.metrics.kid import Kid
from arvbench.harness.quality.metrics.kid import kid as kid_of_features
from arvbench.harness.quality.protocols.numbers import few_images, spread, spread_detail
from arvbench.harness.quality.protocols.protocol import (
    EvaluationProtocol,
    Metric,
    MetricInputs,
    MetricValue,
    with_version,
)

FEATURES, LOGITS = "2048", "logits_unbiased"
RNG_SEED = 2020
"""The library's default seed, for the shuffle before the inception score and for KID's subsets."""
ISC_SPLITS = 10
T_975 = 2.262
"""97.5 % point of Student's t with nine degrees of freedom, for ten splits."""
KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000
PRC_NEIGHBORHOOD = 3
PRC_BATCH = 10_000
"""Rows of the distance matrix in memory at a time; the library's default."""
BY_LIBRARY = {"computed_by": "the library"}
BIT_FOR_BIT = {"computed_by": "arvbench, equal to the library bit for bit"}
TO_ROUNDING = {"computed_by": "arvbench, equal to the library to 1e-10"}


def library() -> str:
    return with_version("torch-fidelity")


def fid(inputs: MetricInputs, layer: str) -> MetricValue:
    """FID by the library; the interval is ours, on fp32 features."""
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    def fit(features_ND: Tensor) -> GaussianFit:
        found = fid_features_to_statistics(features_ND)
        return GaussianFit(found["mu"], found["sigma"])

    both = ({"mu": fit.mean, "sigma": fit.covariance} for fit in _fits(inputs, layer, torch.float32, fit))
    value = fid_statistics_to_metric(*both, verbose=False)[KEY_METRIC_FID]
    return _fid_value(inputs, layer, value, "float32", BY_LIBRARY)


def fid_in_float64(inputs: MetricInputs, layer: str) -> MetricValue:
    """FID of float64 features, the library's number; the interval is of fp32 features."""
    value = frechet_of_product(*_fits(inputs, layer, torch.float64, gaussian_fit))
    return _fid_value(inputs, layer, value, "float64", BIT_FOR_BIT)


def _fits(
    inputs: MetricInputs, layer: str, dtype: torch.dtype, fit: Callable[[Tensor], GaussianFit]
) -> tuple[GaussianFit, GaussianFit]:
    """Return the moments of the samples and of the reference."""
    reference = inputs.require_reference()
    generated, moments = fit(inputs.samples.features(layer).to(dtype)), reference.moments(layer)
    if moments.count == reference.count:
        return generated, fit(reference.features(layer).to(dtype))
    # A file of statistics may hold only a subset of the images behind its mean and covariance.
    return generated, GaussianFit(moments.mean_D.to(dtype).numpy(), moments.cov_DD.numpy())


def _fid_value(inputs: MetricInputs, layer: str, value: float, dtype: str, by: Mapping[str, str]) -> MetricValue:
    samples_ND, sampling = inputs.samples.features(layer), inputs.once(spread, layer)
    counts = (len(samples_ND), inputs.require_reference().moments(layer).count)
    return MetricValue(
        value=value,
        library=library(),
        interval=sampling.interval if sampling else None,
        parameters={"moments": f"{dtype}, N - 1", "root": "eigenvalues of the product"},
        detail={**spread_detail(inputs, sampling), **by},
        notes=few_images(samples_ND.shape[1], *counts),
    )


def isc(inputs: MetricInputs, layer: str) -> MetricValue:
    """Inception score by the library: softmax and logarithm in float64, ten splits of a shuffled order."""
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric

    out = isc_features_to_metric(inputs.samples.features(layer), splits=ISC_SPLITS, shuffle=True, rng_seed=RNG_SEED)
    return _isc_value(out[KEY_METRIC_ISC_MEAN], out[KEY_METRIC_ISC_STD], ISC_SPLITS, BY_LIBRARY)


def isc_in_float64(inputs: MetricInputs, layer: str, *, splits: int) -> MetricValue:
    """Inception score in any number of splits, the library's number."""
    mean, std = shuffled_score(inputs.samples.features(layer), splits=splits, seed=RNG_SEED)
    return _isc_value(mean, std, splits, BIT_FOR_BIT)


def _isc_value(mean: float, std: float, splits: int, by: Mapping[str, str]) -> MetricValue:
    """Return the score; with ten splits it has Student's interval of their mean."""
    return MetricValue(
        value=mean,
        library=library(),
        spread=std if splits > 1 else None,
        interval=interval_of_mean(mean, std, splits, quantile=T_975) if splits == ISC_SPLITS else None,
        parameters={"splits": splits, "shuffle_seed": RNG_SEED},
        detail=by,
    )


def kid_subset_size(samples: int, reference: int) -> int:
    """Return the images per KID subset: the library's 1,000, or half of the smaller set when that has fewer than 1,000.

    Subsets as large as the set would be equal, and the library refuses larger ones.
    """
    smaller = min(samples, reference)
    return KID_SUBSET_SIZE if smaller >= KID_SUBSET_SIZE else smaller // 2


def kid(inputs: MetricInputs, layer: str) -> MetricValue:
    """KID by the library: mean over random subsets, with their standard deviation.

    No interval: subsets share images, so their spread says little about the mean.
    """
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    samples_ND, real_MD = inputs.features(layer)
    size = kid_subset_size(len(samples_ND), len(real_MD))
    out = kid_features_to_metric(
        samples_ND, real_MD, kid_subsets=KID_SUBSETS, kid_subset_size=size, rng_seed=RNG_SEED, verbose=False
    )
    return _kid_value(Kid(out[KEY_METRIC_KID_MEAN], out[KEY_METRIC_KID_STD]), size, BY_LIBRARY)


def kid_in_float64(inputs: MetricInputs, layer: str) -> MetricValue:
    """KID of float64 features, the library's number to 1e-10."""
    samples_ND, real_MD = (features.double() for features in inputs.features(layer))
    size = kid_subset_size(len(samples_ND), len(real_MD))
    value = kid_of_features(samples_ND, real_MD, subsets=KID_SUBSETS, size=size, seed=RNG_SEED)
    return _kid_value(value, size, TO_ROUNDING)


def _kid_value(value: Kid, size: int, by: Mapping[str, str]) -> MetricValue:
    return MetricValue(
        value=value.mean,
        library=library(),
        spread=value.std,
        detail=by,
        parameters={
            "subsets": KID_SUBSETS,
            "subset_size": size,
            "subset_seed": RNG_SEED,
            "kernel": "(x.y / D + 1) ** 3",
        },
    )


def precision(inputs: MetricInputs, layer: str) -> MetricValue:
    """Share of samples inside the balls of the reference, by the library."""
    return _share(inputs.once(_by_library, layer)[0], inputs.samples.count, BY_LIBRARY)


def recall(inputs: MetricInputs, layer: str) -> MetricValue:
    """Share of reference images inside the balls of the samples, by the library."""
    return _share(inputs.once(_by_library, layer)[1], inputs.require_reference().count, BY_LIBRARY)


def _by_library(inputs: MetricInputs, layer: str) -> tuple[float, float]:
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    settings: dict[str, Any] = {"prc_neighborhood": PRC_NEIGHBORHOOD, "prc_batch_size": PRC_BATCH}
    out = prc_features_to_metric(*inputs.features(layer), **settings, save_cpu_ram=True, verbose=False)
    return out[KEY_METRIC_PRECISION], out[KEY_METRIC_RECALL]


def precision_in_float64(inputs: MetricInputs, layer: str) -> MetricValue:
    """Share of samples inside the balls of the reference, on float64 features, the library's number."""
    return _share(inputs.once(_in_float64, layer)[0], inputs.samples.count, BIT_FOR_BIT)


def recall_in_float64(inputs: MetricInputs, layer: str) -> MetricValue:
    """Share of reference images inside the balls of the samples, on float64 features, the library's number."""
    return _share(inputs.once(_in_float64, layer)[1], inputs.require_reference().count, BIT_FOR_BIT)


def _in_float64(inputs: MetricInputs, layer: str) -> tuple[float, float]:
    samples_ND, real_MD = (features.double() for features in inputs.features(layer))
    return precision_recall_of_batches(samples_ND, real_MD, k=PRC_NEIGHBORHOOD, batch=PRC_BATCH)


def _share(value: float, count: int, by: Mapping[str, str]) -> MetricValue:
    return MetricValue(
        value=value,
        library=library(),
        interval=wilson_interval(value, count),
        parameters={"neighborhood": PRC_NEIGHBORHOOD, "distance": "Euclidean"},
        detail=by,
    )


# FID reads features, not moments, because the library's function takes features of both sides.
TORCH_FIDELITY = EvaluationProtocol(
    name="torch-fidelity",
    extractor="fidelity-inception",
    metrics=(
        Metric("fid", FEATURES, reads="features", fewest=2, compute=fid),
        Metric("isc", LOGITS, fewest=ISC_SPLITS, compute=isc),
        Metric("kid", FEATURES, reads="features", fewest=4, compute=kid),
        Metric("precision", FEATURES, reads="features", fewest=PRC_NEIGHBORHOOD + 1, compute=precision),
        Metric("recall", FEATURES, reads="features", fewest=PRC_NEIGHBORHOOD + 1, compute=recall),
    ),
)
