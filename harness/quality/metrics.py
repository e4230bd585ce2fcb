"""FID, inception score, KID, precision and recall as torch-fidelity computes them, and label accuracy.

The samples pass through the extractor once; every metric reads the same features. Features are fp32; all that follows
is float64 (torch-fidelity by itself keeps FID's mean, KID and the distances in fp32).

fid             Frechet distance of two Gaussians; 0 is best; biased upwards for few samples
isc             inception score, 1 .. number of classes; needs no reference
kid             squared maximum mean discrepancy, cubic kernel; unbiased, so it can be slightly negative
precision       share of samples within reach of the reference, 0..1
recall          share of the reference within reach of the samples, 0..1
label-accuracy  share of samples that the extractor's classifier gives their own label, 0..1

Shapes   N samples, M reference images, D features
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

from arvbench.errors import ContractError, UserError
from arvbench.harness.quality.extractors import BATCH, Extractor, Features, load_extractor
from arvbench.harness.quality.protocol import Protocol
from arvbench.harness.quality.reference import Reference, load_reference_set
from arvbench.results.schema import Quality, QualityRequest

RNG_SEED = 2020
"""torch-fidelity's own: shuffles before the splits of the inception score and draws KID's subsets."""
ISC_SPLITS, ISC_MIN_SPLIT = 10, 500
"""Ten splits as published, fewer where a split would hold under 500 images: the score of a small split is biased."""
KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000
"""As published; the size is at most half of the smaller set, so that subsets differ and the spread has a meaning."""
PRC_NEIGHBORHOOD = 3
PRC_BATCH = 1000
"""Rows of the distance matrix in memory at a time; does not change the result."""
MIN_IMAGES: Mapping[str, int] = {"fid": 2, "isc": 2, "kid": 4, "prc": PRC_NEIGHBORHOOD + 1}
"""Fewest samples, and fewest reference images, that define a metric."""
NEEDS_REFERENCE = frozenset({"fid", "kid", "prc"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleScheme:
    """How the samples came to be, as far as it changes what a quality number means. All but `note` is in the id."""

    labels: str
    """For example "equal per class, in order", "uniform random" or "those of the data set"."""
    uint8_rule: str
    """"truncate", "round" or "none" when images were never float."""
    sampling: str = ""
    """Anything else, in words: "tokenizer reconstruction", "in-painting"; empty for plain samples of a model."""
    note: str = ""
    """Free text for the reader of the record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Value:
    metric: str
    value: float
    spread: float | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    feature_layer: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Compared:
    """What a metric works on."""

    samples: Features
    reference: Reference | None
    extractor: Extractor

    @property
    def real_MD(self) -> Tensor:
        if self.reference is None:
            raise ContractError("a metric that needs no reference asked for one")
        return self.reference.features_ND.double()


def measure_quality(
    images_N3HW: Tensor,
    request: QualityRequest,
    *,
    scheme: SampleScheme,
    labels_N: Tensor | None = None,
    inception_weights: Path | None = None,
    device: torch.device | str = "cpu",
) -> tuple[Quality, ...]:
    """Return the numbers that `request` asks for, and label accuracy where the extractor knows the given labels.

    `images_N3HW` is uint8 (request.images, 3, H, W); `labels_N` (N,) integers. Samples of a model and reconstructions
    of a tokenizer are measured alike; `scheme` says which they are. Order of the result: the request's, then label
    accuracy; "prc" gives precision and recall.

    Raises UserError for too few images, an extractor without weights or an unusable reference; CheckpointError for
    features that are not finite; ContractError when the images are not as many as requested.
    """
    if len(images_N3HW) != request.images:
        raise ContractError(f"quality was asked for on {request.images} images and got {len(images_N3HW)}")
    _check_count(request.metrics, len(images_N3HW), "samples")
    extractor = load_extractor(request.extractor, device=device, inception_weights=inception_weights)
    reference = None
    if NEEDS_REFERENCE.intersection(request.metrics):
        reference = load_reference_set(request.reference, extractor)
        _check_reference(reference, request, images_N3HW)
    compared = _Compared(
        samples=extractor.extract(images_N3HW.split(BATCH)),
        reference=reference,
        extractor=extractor,
    )
    values = [value for metric in request.metrics for value in _METRICS[metric](compared)]
    if labels_N is not None and extractor.classes is not None:
        values.append(_label_accuracy(compared, labels_N))
    shape = (images_N3HW.shape[2], images_N3HW.shape[3])
    return tuple(_quality(value, compared, scheme, len(images_N3HW), shape) for value in values)


def _check_count(metrics: Sequence[str], count: int, what: str) -> None:
    for metric in metrics:
        if count < MIN_IMAGES[metric]:
            raise UserError(f"{metric} needs at least {MIN_IMAGES[metric]} {what}, there are {count}")


def _check_reference(reference: Reference, request: QualityRequest, images_N3HW: Tensor) -> None:
    needing = [metric for metric in request.metrics if metric in NEEDS_REFERENCE]
    _check_count(needing, len(reference.features_ND), f"images in reference {request.reference!r}")
    height, width = images_N3HW.shape[2:]
    if reference.image_shape != (height, width):
        raise UserError(
            f"samples are {width} x {height} and reference {request.reference!r} is {reference.image_shape[1]} x "
            f"{reference.image_shape[0]}: take a reference of the samples' size"
        )


# ---- metrics -----------------------------------------------------------------------------------------------------


def _fid(compared: _Compared) -> list[_Value]:
    count = len(compared.samples.features_ND)
    generated = fid_features_to_statistics(compared.samples.features_ND.double())
    if compared.reference is not None and compared.reference.moments is not None:
        mu_D, sigma_DD = compared.reference.moments
        real = {"mu": mu_D.numpy(), "sigma": sigma_DD.numpy()}
    else:
        real = fid_features_to_statistics(compared.real_MD)
    notes = []
    if min(count, len(compared.real_MD)) <= compared.extractor.dims:
        notes.append(f"fewer images than {compared.extractor.dims} feature dimensions: FID is strongly biased upwards")
    value = fid_statistics_to_metric(generated, real, verbose=False)[KEY_METRIC_FID]
    return [
        _Value(
            metric="fid",
            value=value,
            parameters={"moments": "float64, N - 1", "root": "eigenvalues"},
            feature_layer=compared.extractor.feature_layer,
            notes=tuple(notes),
        )
    ]


def isc_splits(count: int) -> int:
    """Splits of the inception score of `count` samples."""
    return max(1, min(ISC_SPLITS, count // ISC_MIN_SPLIT))


def _isc(compared: _Compared) -> list[_Value]:
    splits = isc_splits(len(compared.samples.logits_NC))
    out = isc_features_to_metric(compared.samples.logits_NC, splits=splits, shuffle=True, rng_seed=RNG_SEED)
    return [
        _Value(
            metric="isc",
            value=out[KEY_METRIC_ISC_MEAN],
            spread=out[KEY_METRIC_ISC_STD] if splits > 1 else None,
            parameters={"splits": splits, "shuffle_seed": RNG_SEED},
            feature_layer=compared.extractor.logits_layer,
        )
    ]


def kid_subset_size(samples: int, reference: int) -> int:
    """Images of each set in one of KID's subsets."""
    return min(KID_SUBSET_SIZE, samples // 2, reference // 2)


def _kid(compared: _Compared) -> list[_Value]:
    generated_ND, real_MD = compared.samples.features_ND.double(), compared.real_MD
    size = kid_subset_size(len(generated_ND), len(real_MD))
    out = kid_features_to_metric(
        generated_ND, real_MD, kid_subsets=KID_SUBSETS, kid_subset_size=size, rng_seed=RNG_SEED, verbose=False
    )
    return [
        _Value(
            metric="kid",
            value=out[KEY_METRIC_KID_MEAN],
            spread=out[KEY_METRIC_KID_STD],
            parameters={
                "subsets": KID_SUBSETS,
                "subset_size": size,
                "subset_seed": RNG_SEED,
                "kernel": "(x.y / D + 1) ** 3",
            },
            feature_layer=compared.extractor.feature_layer,
        )
    ]


def _prc(compared: _Compared) -> list[_Value]:
    out = prc_features_to_metric(
        compared.samples.features_ND.double(),
        compared.real_MD,
        prc_neighborhood=PRC_NEIGHBORHOOD,
        prc_batch_size=PRC_BATCH,
        save_cpu_ram=True,
        verbose=False,
    )
    return [
        _Value(
            metric=metric,
            value=out[key],
            parameters={"neighborhood": PRC_NEIGHBORHOOD, "distance": "Euclidean"},
            feature_layer=compared.extractor.feature_layer,
        )
        for metric, key in (("precision", KEY_METRIC_PRECISION), ("recall", KEY_METRIC_RECALL))
    ]


_METRICS: Mapping[str, Callable[[_Compared], list[_Value]]] = {"fid": _fid, "isc": _isc, "kid": _kid, "prc": _prc}


def _label_accuracy(compared: _Compared, labels_N: Tensor) -> _Value:
    logits_NC, classes = compared.samples.logits_NC, compared.extractor.classes
    labels_N = labels_N.cpu()
    if classes is None or labels_N.shape != logits_NC.shape[:1]:
        raise ContractError(f"labels {tuple(labels_N.shape)} for {len(logits_NC)} images of {classes} classes")
    outside_N = (labels_N < 0) | (labels_N >= classes)
    if outside_N.any():
        raise UserError(
            f"label {int(labels_N[outside_N][0])} is not one of the {classes} classes of {compared.extractor.name!r}; "
            "measure samples without a class without labels"
        )
    return _Value(
        metric="label-accuracy",
        value=float((logits_NC.argmax(dim=1) == labels_N).double().mean()),
        feature_layer=compared.extractor.logits_layer,
    )


def _quality(value: _Value, compared: _Compared, scheme: SampleScheme, count: int, shape: tuple[int, int]) -> Quality:
    """Make the record of one number, with its identity."""
    extractor = compared.extractor
    if not math.isfinite(value.value):
        raise ContractError(f"{value.metric} on {count} images under {extractor.name!r} is {value.value}")
    has_reference = compared.reference is not None and value.metric not in ("isc", "label-accuracy")
    reference = compared.reference if has_reference else None
    library = "arvbench" if value.metric == "label-accuracy" else f"torch-fidelity {version('torch-fidelity')}"
    protocol = Protocol(
        metric=value.metric,
        extractor=extractor.name,
        extractor_sha256=extractor.sha256,
        feature_layer=value.feature_layer,
        preprocessing=extractor.preprocessing,
        reference_sha256=reference.images_sha256 if reference else "",
        n_samples=count,
        image_shape=shape,
        label_scheme=scheme.labels,
        uint8_rule=scheme.uint8_rule,
        sampling=scheme.sampling,
        library=library,
        parameters=value.parameters,
    )
    against = f" against {reference.name}" if reference else ""
    return Quality(
        metric=value.metric,
        value=value.value,
        spread=value.spread,
        protocol=f"{value.metric} ({extractor.name}){against}, {library}",
        protocol_id=protocol.id,
        n_samples=count,
        note="; ".join(text for text in (scheme.note, extractor.note, *value.notes) if text),
    )
