"""Protocol `torch-fidelity`: ISC, FID, KID, precision and recall by that library's own functions.

They get fp32 features and the library's defaults: ten shuffled splits, a hundred subsets of a thousand images, three
neighbours. The functions here serve other extractors too. `dtype` may ask for float64 features, because the library
keeps the mean of fp32 features in fp32.

Shapes   N samples, M reference images, D features, C classes
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from arvbench.harness.quality.metrics.intervals import interval_of_mean, wilson_interval
from arvbench.harness.quality.metrics.kid import Kid, worth_sharing
from arvbench.harness.quality.metrics.kid import kid as shared_kid
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


def library() -> str:
    return with_version("torch-fidelity")


def fid(inputs: MetricInputs, layer: str, *, dtype: torch.dtype = torch.float32) -> MetricValue:
    """FID by the library; the interval is ours, on fp32 features."""
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    reference = inputs.require_reference()
    samples_ND = inputs.samples.features(layer).to(dtype)
    generated, moments = fid_features_to_statistics(samples_ND), reference.moments(layer)
    if moments.count == reference.count:
        real = fid_features_to_statistics(reference.features(layer).to(dtype))
    else:
        # A file of statistics may hold only a subset of the images behind its mean and covariance.
        real = {"mu": moments.mean_D.numpy().astype(generated["mu"].dtype), "sigma": moments.cov_DD.numpy()}
    sampling = inputs.once(spread, layer)
    return MetricValue(
        value=fid_statistics_to_metric(generated, real, verbose=False)[KEY_METRIC_FID],
        library=library(),
        interval=sampling.interval if sampling else None,
        parameters={"moments": f"{samples_ND.numpy().dtype}, N - 1", "root": "eigenvalues of the product"},
        detail=spread_detail(inputs, sampling),
        notes=few_images(samples_ND.shape[1], len(samples_ND), moments.count),
    )


def isc(inputs: MetricInputs, layer: str, *, splits: int) -> MetricValue:
    """Inception score by the library: softmax and logarithm in float64, splits of a shuffled order.

    With ten splits it has Student's interval of their mean.
    """
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric

    out = isc_features_to_metric(inputs.samples.features(layer), splits=splits, shuffle=True, rng_seed=RNG_SEED)
    mean, std = out[KEY_METRIC_ISC_MEAN], out[KEY_METRIC_ISC_STD]
    return MetricValue(
        value=mean,
        library=library(),
        spread=std if splits > 1 else None,
        interval=interval_of_mean(mean, std, splits, quantile=T_975) if splits == ISC_SPLITS else None,
        parameters={"splits": splits, "shuffle_seed": RNG_SEED},
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
    samples_ND, real_MD = inputs.features(layer)
    size = kid_subset_size(len(samples_ND), len(real_MD))
    return _kid_value(_librarys_kid(samples_ND, real_MD, size), size, "the library")


def kid_in_float64(inputs: MetricInputs, layer: str) -> MetricValue:
    """KID on float64 features, where our own function gives the library's number to 1e-10, at a part of its cost."""
    samples_ND, real_MD = (features.double() for features in inputs.features(layer))
    size = kid_subset_size(len(samples_ND), len(real_MD))
    if worth_sharing(len(samples_ND), len(real_MD), subsets=KID_SUBSETS, size=size):
        ours = shared_kid(samples_ND, real_MD, subsets=KID_SUBSETS, size=size, seed=RNG_SEED)
        return _kid_value(ours, size, "arvbench, equal to the library to 1e-10")
    return _kid_value(_librarys_kid(samples_ND, real_MD, size), size, "the library")


def _librarys_kid(samples_ND: Tensor, real_MD: Tensor, size: int) -> Kid:
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    out = kid_features_to_metric(
        samples_ND, real_MD, kid_subsets=KID_SUBSETS, kid_subset_size=size, rng_seed=RNG_SEED, verbose=False
    )
    return Kid(out[KEY_METRIC_KID_MEAN], out[KEY_METRIC_KID_STD])


def _kid_value(value: Kid, size: int, by: str) -> MetricValue:
    return MetricValue(
        value=value.mean,
        library=library(),
        spread=value.std,
        detail={"computed_by": by},
        parameters={
            "subsets": KID_SUBSETS,
            "subset_size": size,
            "subset_seed": RNG_SEED,
            "kernel": "(x.y / D + 1) ** 3",
        },
    )


def precision(inputs: MetricInputs, layer: str, *, dtype: torch.dtype = torch.float32) -> MetricValue:
    """Share of samples inside the balls of the reference, by the library."""
    return _share(inputs.once(_precision_recall, layer, dtype)[0], inputs.samples.count)


def recall(inputs: MetricInputs, layer: str, *, dtype: torch.dtype = torch.float32) -> MetricValue:
    """Share of reference images inside the balls of the samples, by the library."""
    return _share(inputs.once(_precision_recall, layer, dtype)[1], inputs.require_reference().count)


def _precision_recall(inputs: MetricInputs, layer: str, dtype: torch.dtype) -> tuple[float, float]:
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    samples_ND, real_MD = inputs.features(layer)
    out = prc_features_to_metric(
        samples_ND.to(dtype),
        real_MD.to(dtype),
        prc_neighborhood=PRC_NEIGHBORHOOD,
        prc_batch_size=PRC_BATCH,
        save_cpu_ram=True,
        verbose=False,
    )
    return out[KEY_METRIC_PRECISION], out[KEY_METRIC_RECALL]


def _share(value: float, count: int) -> MetricValue:
    return MetricValue(
        value=value,
        library=library(),
        interval=wilson_interval(value, count),
        parameters={"neighborhood": PRC_NEIGHBORHOOD, "distance": "Euclidean"},
    )


# FID reads features, not moments, because the library's function takes features of both sides.
TORCH_FIDELITY = EvaluationProtocol(
    name="torch-fidelity",
    extractor="fidelity-inception",
    metrics=(
        Metric("fid", FEATURES, reads="features", fewest=2, compute=fid),
        Metric("isc", LOGITS, fewest=ISC_SPLITS, compute=partial(isc, splits=ISC_SPLITS)),
        Metric("kid", FEATURES, reads="features", fewest=4, compute=kid),
        Metric("precision", FEATURES, reads="features", fewest=PRC_NEIGHBORHOOD + 1, compute=precision),
        Metric("recall", FEATURES, reads="features", fewest=PRC_NEIGHBORHOOD + 1, compute=recall),
    ),
)
