"""Metrics with this package's own arithmetic: from features to a value with its interval and notes.

Every public function of inputs and a layer is the `compute` of a `Metric`. Metrics share work (the root of the
reference, the spread of a distance, the neighbours) through `MetricInputs.once`.

Shapes   N samples, M reference images, D features, C classes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor

from arvbench.errors import ContractError, UserError
from arvbench.harness.quality.extractors.extractor import Extractor
from arvbench.harness.quality.images.source import ImageSource
from arvbench.harness.quality.metrics import mmd
from arvbench.harness.quality.metrics.frechet import ReferenceRoot, frechet_distance, frechet_of_features
from arvbench.harness.quality.metrics.frechet_infinity import INFINITY_SIZES, frechet_at_infinity
from arvbench.harness.quality.metrics.frechet_spread import (
    Spread,
    bootstrap_frechet,
    jackknife_frechet,
    mean_over_classes,
)
from arvbench.harness.quality.metrics.inception_score import SPLIT_SIZE
from arvbench.harness.quality.metrics.inception_score import inception_score as score_of_logits
from arvbench.harness.quality.metrics.intervals import wilson_interval
from arvbench.harness.quality.metrics.neighbours import (
    BLOCK,
    Arithmetic,
    Distances,
    Prdc,
    PrecisionRecall,
    density_coverage,
    precision_recall,
)
from arvbench.harness.quality.protocols.protocol import MetricInputs, MetricValue

SUBSET_SEED = 0
"""Seed of the subsets behind FID at infinitely many samples; part of its id."""
FEWEST_PER_CLASS = 10
"""Fewest images on each side for a class to count in FID by class."""
PRDC_NEIGHBOURS = 5
_FRECHET_PARAMETERS = {"moments": "float64, N - 1", "root": "eigenvalues of R S R^T"}


def frechet(inputs: MetricInputs, layer: str) -> MetricValue:
    """Frechet distance with the interval of its samples. Raises UserError as `frechet_distance`."""
    moments, root = inputs.samples.moments(layer), inputs.once(reference_root, layer)
    distance, sampling = frechet_distance(moments, root), inputs.once(spread, layer)
    # The value with means in fp32, as in the ADM evaluator and torch-fidelity.
    fp32_shift_D = moments.with_fp32_mean().mean_D - root.moments.with_fp32_mean().mean_D
    return MetricValue(
        value=distance.value,
        interval=sampling.interval if sampling else None,
        parameters=_FRECHET_PARAMETERS,
        detail={
            "value_with_fp32_means": float(fp32_shift_D @ fp32_shift_D) + distance.trace_term,
            "mean_term": distance.mean_term,
            "trace_term": distance.trace_term,
            "clamped_mass": distance.clamped_mass,
            "clamped_mass_reference": root.clamped_mass,
            **spread_detail(inputs, sampling),
        },
        notes=few_images(len(root.moments.mean_D), inputs.samples.count, root.moments.count),
    )


def frechet_infinity(inputs: MetricInputs, layer: str) -> MetricValue:
    """FID at infinitely many samples, with an interval unless none is wanted."""
    root, sampling = inputs.once(reference_root, layer), inputs.once(spread, layer)
    fit = frechet_at_infinity(inputs.samples.features(layer), root, SUBSET_SEED, device=inputs.extractor.device)
    return MetricValue(
        value=fit.value,
        interval=fit.interval(sampling.std) if sampling else None,
        parameters={
            **_FRECHET_PARAMETERS,
            "fit": "FID against 1 / n",
            "sizes": INFINITY_SIZES,
            "subset_seed": SUBSET_SEED,
        },
        detail={
            "fit_stderr": fit.stderr,
            "sizes": list(fit.sizes),
            "distances": list(fit.distances),
            **spread_detail(inputs, sampling),
        },
    )


def reference_root(inputs: MetricInputs, layer: str) -> ReferenceRoot:
    """Root of the reference's covariance: the slow half of every Frechet distance."""
    return ReferenceRoot.of(inputs.require_reference().moments(layer))


def spread(inputs: MetricInputs, layer: str) -> Spread | None:
    """Interval and standard deviation of the Frechet distance; None when none is wanted, or for too few samples."""
    replicates = inputs.options.bootstrap
    if replicates == 0:
        return None
    features_ND, root = inputs.samples.features(layer), inputs.once(reference_root, layer)
    strata_N, device = inputs.labels_N if inputs.balanced else None, inputs.extractor.device
    if replicates is None:
        return jackknife_frechet(features_ND, root, strata_N=strata_N, device=device)
    return bootstrap_frechet(features_ND, root, replicates, inputs.options.seed, strata_N=strata_N, device=device)


def spread_detail(inputs: MetricInputs, sampling: Spread | None) -> dict[str, Any]:
    """Facts about the interval of a Frechet distance."""
    if sampling is None:
        return {}
    scope = "within classes" if inputs.balanced and inputs.labels_N is not None else "all samples alike"
    replicates = {"replicates": inputs.options.bootstrap} if sampling.method == "bootstrap" else {}
    return {"interval_method": sampling.method, "sampling_std": sampling.std, "varied": scope, **replicates}


def few_images(dims: int, *counts: int | None) -> tuple[str, ...]:
    """Bias warning for a Frechet distance in which either set has at most `dims` images; None counts are ignored."""
    if min((count for count in counts if count is not None), default=dims + 1) > dims:
        return ()
    return (f"fewer images than {dims} feature dimensions: FID is strongly biased upwards",)


def inception_score(inputs: MetricInputs, layer: str, *, shuffle_seed: int | None = None) -> MetricValue:
    """Inception score of the logits in `layer`, in the given order or shuffled with `shuffle_seed`."""
    score = score_of_logits(inputs.samples.features(layer), shuffle_seed=shuffle_seed)
    order: dict[str, Any] = (
        {"order": "as given"} if shuffle_seed is None else {"order": "shuffled", "shuffle_seed": shuffle_seed}
    )
    return MetricValue(
        value=score.value,
        spread=score.std,
        parameters={"split_size": SPLIT_SIZE, **order},
        detail={"split_values": list(score.split_values)},
    )


def precision(inputs: MetricInputs, layer: str, *, k: int, arithmetic: Arithmetic) -> MetricValue:
    """Share of samples inside the balls of the reference: squared distance <= radius."""
    shares = inputs.once(_precision_recall, layer, k, arithmetic)
    return _share(shares.precision, inputs.samples.count, _precision_recall_parameters(k, arithmetic))


def recall(inputs: MetricInputs, layer: str, *, k: int, arithmetic: Arithmetic) -> MetricValue:
    """Share of reference images inside the balls of the samples."""
    shares = inputs.once(_precision_recall, layer, k, arithmetic)
    return _share(shares.recall, inputs.require_reference().count, _precision_recall_parameters(k, arithmetic))


def _precision_recall(inputs: MetricInputs, layer: str, k: int, arithmetic: Arithmetic) -> PrecisionRecall:
    return precision_recall(*inputs.features(layer), k, Distances(arithmetic, device=inputs.extractor.device))


def _precision_recall_parameters(k: int, arithmetic: Arithmetic) -> dict[str, Any]:
    blocks = {"block": BLOCK} if arithmetic == "fp16-blocks" else {}
    return {"k": k, "distance": "squared", "inside": "<=", "arithmetic": arithmetic, **blocks}


def prdc(part: Literal["precision", "recall", "density", "coverage"], inputs: MetricInputs, layer: str) -> MetricValue:
    """One of the four numbers with five neighbours: Euclidean distance < radius."""
    result = inputs.once(_density_coverage, layer)
    parameters = {"k": PRDC_NEIGHBOURS, "distance": "Euclidean", "inside": "<"}
    if part == "density":
        return MetricValue(value=result.density, parameters=parameters)
    samples, reference = inputs.samples.count, inputs.require_reference().count
    shares = {
        "precision": (result.precision, samples),
        "recall": (result.recall, reference),
        "coverage": (result.coverage, reference),
    }
    return _share(*shares[part], parameters)


def _density_coverage(inputs: MetricInputs, layer: str) -> Prdc:
    distances = Distances("euclidean", device=inputs.extractor.device)
    return density_coverage(*inputs.features(layer), PRDC_NEIGHBOURS, distances)


def _share(value: float, count: int, parameters: Mapping[str, Any]) -> MetricValue:
    """Return a share of `count` images, with Wilson's interval."""
    return MetricValue(
        value=value,
        interval=wilson_interval(value, count),
        parameters=parameters,
        detail={"interval_of": f"{count} images, the other set as given"},
    )


def cmmd(inputs: MetricInputs, layer: str) -> MetricValue:
    """Squared maximum mean discrepancy of embeddings under a Gaussian kernel, times 1000."""
    return MetricValue(
        value=mmd.cmmd(*inputs.features(layer), device=inputs.extractor.device),
        parameters={
            "kernel": "exp(-|x - y|^2 / (2 sigma^2))",
            "sigma": mmd.SIGMA,
            "scale": mmd.SCALE,
            "estimator": "all pairs, itself included",
            "embeddings": "length 1",
        },
    )


def per_class_frechet(inputs: MetricInputs, layer: str) -> MetricValue:
    """Mean over classes of the Frechet distance between samples and reference images of one class.

    Only classes with at least ten images on both sides count; a note names the others. Raises UserError when
    labels are unknown on either side, or when no class counts.
    """
    samples_ND, reference_MD = inputs.features(layer)
    labels_N = _labels(inputs.labels_N, len(samples_ND), "samples")
    labels_M = _labels(inputs.reference_labels_M, len(reference_MD), "reference")
    classes: dict[str, dict[str, float | int]] = {}
    pairs: list[tuple[Tensor, Tensor]] = []
    short: list[str] = []
    fewest = samples_ND.shape[1] + 1
    for label in sorted(set(labels_N.tolist()) | set(labels_M.tolist())):
        samples_nD, reference_mD = samples_ND[labels_N == label], reference_MD[labels_M == label]
        name = inputs.class_names[label] if inputs.class_names else str(label)
        smaller = min(len(samples_nD), len(reference_mD))
        if smaller < FEWEST_PER_CLASS:
            short.append(name)
            continue
        fewest = min(fewest, smaller)
        distance = frechet_of_features(samples_nD, reference_mD)
        pairs.append((samples_nD, reference_mD))
        classes[name] = {"fid": distance.value, "samples": len(samples_nD), "reference": len(reference_mD)}
    if not classes:
        raise UserError(
            f"FID by class needs a class with at least {FEWEST_PER_CLASS} samples and as many reference images; none "
            f"of the {len(short)} classes has them"
        )
    sampling = None if inputs.options.bootstrap == 0 else mean_over_classes(pairs, device=inputs.extractor.device)
    return MetricValue(
        value=sum(values["fid"] for values in classes.values()) / len(classes),
        interval=sampling.interval if sampling else None,
        parameters={
            "moments": _FRECHET_PARAMETERS["moments"],
            "mean": "over classes",
            "fewest_per_class": FEWEST_PER_CLASS,
        },
        detail={
            "classes": classes,
            "classes_left_out": short,
            **({"interval_method": sampling.method, "sampling_std": sampling.std} if sampling else {}),
        },
        notes=_class_notes(len(classes), short, fewest, samples_ND.shape[1]),
    )


def why_not_per_class(source: ImageSource, _extractor: Extractor, labels_M: Tensor | None) -> str | None:
    """Return the reason why FID by class cannot be computed; None when it can."""
    labels_N = source.labels_N
    if labels_N is None or labels_M is None:
        return f"the {'samples have' if labels_N is None else 'reference has'} no labels to compare"
    both = set(labels_N.tolist()) & set(labels_M.tolist())
    if any(min(int((labels == c).sum()) for labels in (labels_N, labels_M)) >= FEWEST_PER_CLASS for c in both):
        return None
    return f"no class has {FEWEST_PER_CLASS} images among the samples and in the reference"


def _class_notes(counted: int, short: Sequence[str], fewest: int, dims: int) -> tuple[str, ...]:
    notes = []
    if fewest <= dims:
        notes.append(
            f"classes of {fewest} images and more at {dims} feature dimensions: FID by class is strongly biased "
            "upwards, comparable only at the same numbers per class"
        )
    if short:
        first = ", ".join(short[:5]) + (", ..." if len(short) > 5 else "")
        notes.append(
            f"{len(short)} of {counted + len(short)} classes have fewer than {FEWEST_PER_CLASS} images on a side and "
            f"are left out: {first}"
        )
    return tuple(notes)


def _labels(labels_N: Tensor | None, count: int, side: str) -> Tensor:
    if labels_N is None:
        raise UserError(
            f"FID by class needs the class of every image, and those of the {side} are not known: give labels, or "
            "leave per-class-fid out"
        )
    if labels_N.shape != (count,):
        raise ContractError(f"labels {tuple(labels_N.shape)} for {count} images of the {side}")
    return labels_N.cpu()
