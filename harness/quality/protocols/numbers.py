"""Numbers that several protocols report, each computed in one place.

Shapes   N samples, M reference images, D features, C classes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from arvbench.errors import ContractError, UserError
from arvbench.harness.quality.features.sets import FeatureData
from arvbench.harness.quality.metrics.frechet import (
    INFINITY_SIZES,
    Bootstrap,
    ReferenceRoot,
    bootstrap_frechet,
    frechet_at_infinity,
    frechet_distance,
    frechet_of_features,
)
from arvbench.harness.quality.metrics.inception_score import SPLIT_SIZE, inception_score
from arvbench.harness.quality.metrics.neighbours import (
    BLOCK,
    Arithmetic,
    density_coverage,
    precision_recall,
    wilson_interval,
)
from arvbench.harness.quality.protocols.protocol import EvaluationProtocol, MetricInputs, MetricValue, Options, Reads

LIBRARY = "arvbench (numerics 1)"
"""Raise the number when a change of our own arithmetic moves a value: it is part of every id."""
SUBSET_SEED = 0
"""Of the subsets behind FID at infinitely many samples; part of its id."""
FEWEST_PER_CLASS = 10
"""Images of a class, on each side, below which its distance is left out."""
_MOMENTS = "float64, N - 1"
_ROOT = "eigenvalues of R S R^T"


class OneLayer(EvaluationProtocol):
    """The part of a protocol that reads one layer of one extractor, the same way for all of its metrics."""

    layer: ClassVar[str]
    need: ClassVar[Reads]
    """What it reads of the reference."""

    def layers(self, metrics: Sequence[str]) -> frozenset[str]:
        return frozenset({self.layer} if metrics else ())

    def reference_layers(self, metrics: Sequence[str]) -> Mapping[str, Reads]:
        return {self.layer: self.need} if metrics else {}


def reference_of(compared: MetricInputs) -> FeatureData:
    """The reference of a metric that needs one."""
    if compared.reference is None:
        raise ContractError("a metric that compares with a reference was asked for without one")
    return compared.reference


def frechet_numbers(
    metrics: Sequence[str],
    compared: MetricInputs,
    layer: str,
    options: Options,
    *,
    distance: str = "fid",
    infinity: str = "fid-infinity",
) -> list[MetricValue]:
    """Of `metrics`, those that are called `distance` and `infinity`, in this order, for one layer.

    The root of the reference and the bootstrap are computed once for both. Raises UserError as `frechet.py` does.
    """
    if not {distance, infinity}.intersection(metrics):
        return []
    root = ReferenceRoot.of(reference_of(compared).moments(layer))
    bootstrap = _bootstrap(compared, layer, root, options)
    numbers = []
    if distance in metrics:
        numbers.append(_distance(distance, compared, layer, root, options, bootstrap))
    if infinity in metrics:
        numbers.append(_at_infinity(infinity, compared, layer, root, options, bootstrap))
    return numbers


def frechet_interval(
    compared: MetricInputs, layer: str, options: Options
) -> tuple[tuple[float, float] | None, float | None]:
    """Bootstrap interval and standard deviation of a Frechet distance, for one that another library computes.

    (None, None) where no bootstrap is asked for.
    """
    if options.bootstrap == 0:
        return None, None
    bootstrap = _bootstrap(compared, layer, ReferenceRoot.of(reference_of(compared).moments(layer)), options)
    return (None, None) if bootstrap is None else (bootstrap.interval, bootstrap.std)


def few_images(dims: int, *counts: int | None) -> tuple[str, ...]:
    """The note on a Frechet distance of sets of which one has no more images than dimensions; None is unknown."""
    if min((count for count in counts if count is not None), default=dims + 1) > dims:
        return ()
    return (f"fewer images than {dims} feature dimensions: FID is strongly biased upwards",)


def _bootstrap(compared: MetricInputs, layer: str, root: ReferenceRoot, options: Options) -> Bootstrap | None:
    if options.bootstrap == 0:
        return None
    features_ND = compared.samples.features(layer)
    return bootstrap_frechet(
        features_ND,
        root,
        options.bootstrap,
        options.seed,
        strata_N=compared.labels_N if compared.balanced else None,
        device=compared.extractor.device,
    )


def _distance(
    metric: str,
    compared: MetricInputs,
    layer: str,
    root: ReferenceRoot,
    options: Options,
    bootstrap: Bootstrap | None,
) -> MetricValue:
    moments = compared.samples.moments(layer)
    found = frechet_distance(moments, root)
    # The ADM evaluator and torch-fidelity keep means in fp32: what the value would then be.
    fp32_shift_D = moments.with_fp32_mean().mean_D - root.moments.with_fp32_mean().mean_D
    detail: dict[str, Any] = {
        "value_with_fp32_means": float(fp32_shift_D @ fp32_shift_D) + found.trace_term,
        "mean_term": found.mean_term,
        "trace_term": found.trace_term,
        "clamped_mass": found.clamped_mass,
        "clamped_mass_reference": root.clamped_mass,
    }
    return MetricValue(
        metric=metric,
        value=found.value,
        layer=layer,
        library=LIBRARY,
        uses_reference=True,
        interval=bootstrap.interval if bootstrap else None,
        parameters={"moments": _MOMENTS, "root": _ROOT},
        detail=detail | _bootstrap_detail(compared, options, bootstrap),
        notes=few_images(len(root.moments.mean_D), compared.samples.count, root.moments.count),
    )


def _at_infinity(
    metric: str,
    compared: MetricInputs,
    layer: str,
    root: ReferenceRoot,
    options: Options,
    bootstrap: Bootstrap | None,
) -> MetricValue:
    """FID at infinitely many samples; its interval needs the bootstrap and is None without."""
    features_ND = compared.samples.features(layer)
    fit = frechet_at_infinity(features_ND, root, SUBSET_SEED, device=compared.extractor.device)
    detail: dict[str, Any] = {
        "fit_stderr": fit.stderr,
        "sizes": list(fit.sizes),
        "distances": list(fit.distances),
    }
    return MetricValue(
        metric=metric,
        value=fit.value,
        layer=layer,
        library=LIBRARY,
        uses_reference=True,
        interval=fit.interval(bootstrap.std) if bootstrap else None,
        parameters={
            "moments": _MOMENTS,
            "root": _ROOT,
            "fit": "FID against 1 / n",
            "sizes": INFINITY_SIZES,
            "subset_seed": SUBSET_SEED,
        },
        detail=detail | _bootstrap_detail(compared, options, bootstrap),
    )


def _bootstrap_detail(compared: MetricInputs, options: Options, bootstrap: Bootstrap | None) -> dict[str, Any]:
    if bootstrap is None:
        return {}
    how = "within classes" if compared.balanced and compared.labels_N is not None else "all samples alike"
    return {"bootstrap_std": bootstrap.std, "replicates": options.bootstrap, "resampled": how}


def inception_score_number(
    compared: MetricInputs, layer: str, *, metric: str = "is", shuffled: int | None = None
) -> MetricValue:
    """Inception score of the logits in `layer`, in the order of the samples or shuffled by a seed."""
    score = inception_score(compared.samples.features(layer), shuffled=shuffled)
    order: dict[str, Any] = (
        {"order": "as given"} if shuffled is None else {"order": "shuffled", "shuffle_seed": shuffled}
    )
    return MetricValue(
        metric=metric,
        value=score.value,
        layer=layer,
        library=LIBRARY,
        uses_reference=False,
        spread=score.std,
        parameters={"split_size": SPLIT_SIZE, **order},
        detail={"split_values": list(score.split_values)},
    )


def precision_recall_numbers(
    metrics: Sequence[str],
    compared: MetricInputs,
    layer: str,
    *,
    arithmetic: Arithmetic,
    suffix: str = "",
    k: int = 3,
) -> list[MetricValue]:
    """Of `metrics`, "precision" + suffix and "recall" + suffix: squared distances, inside is <= radius."""
    names = {"precision": f"precision{suffix}", "recall": f"recall{suffix}"}
    if not set(names.values()).intersection(metrics):
        return []
    samples_ND, reference_MD = compared.samples.features(layer), reference_of(compared).features(layer)
    found = precision_recall(samples_ND, reference_MD, k, arithmetic=arithmetic, device=compared.extractor.device)
    parameters: dict[str, Any] = {"k": k, "distance": "squared", "inside": "<=", "arithmetic": arithmetic}
    if arithmetic == "fp16-blocks":
        parameters["block"] = BLOCK
    shares = {"precision": (found.precision, len(samples_ND)), "recall": (found.recall, len(reference_MD))}
    return [
        _share(names[kind], value, count, layer, parameters)
        for kind, (value, count) in shares.items()
        if names[kind] in metrics
    ]


def prdc_numbers(metrics: Sequence[str], compared: MetricInputs, layer: str, *, k: int = 5) -> list[MetricValue]:
    """Of `metrics`, "precision", "recall", "density" and "coverage", in this order: inside is < radius."""
    if not {"precision", "recall", "density", "coverage"}.intersection(metrics):
        return []
    samples_ND, reference_MD = compared.samples.features(layer), reference_of(compared).features(layer)
    found = density_coverage(samples_ND, reference_MD, k, device=compared.extractor.device)
    parameters: dict[str, Any] = {"k": k, "distance": "Euclidean", "inside": "<"}
    density = MetricValue(
        metric="density",
        value=found.density,
        layer=layer,
        library=LIBRARY,
        uses_reference=True,
        parameters=parameters,
    )
    numbers = [
        _share("precision", found.precision, len(samples_ND), layer, parameters),
        _share("recall", found.recall, len(reference_MD), layer, parameters),
        density,
        _share("coverage", found.coverage, len(reference_MD), layer, parameters),
    ]
    return [number for number in numbers if number.metric in metrics]


def _share(metric: str, value: float, count: int, layer: str, parameters: Mapping[str, Any]) -> MetricValue:
    """A share of `count` images, with Wilson's interval."""
    return MetricValue(
        metric=metric,
        value=value,
        layer=layer,
        library=LIBRARY,
        uses_reference=True,
        interval=wilson_interval(value, count),
        parameters=parameters,
        detail={"interval_of": f"{count} images, the other set as given"},
    )


def per_class_number(compared: MetricInputs, layer: str, *, metric: str = "per-class-fid") -> MetricValue:
    """Mean over classes of the Frechet distance between samples and reference images of one class.

    Counted are the classes with at least ten images on both sides; the others are named in the notes. Raises UserError
    when labels are not known on both sides, or no class counts.
    """
    samples_ND, reference_MD = compared.samples.features(layer), reference_of(compared).features(layer)
    labels_N = _labels(compared.labels_N, len(samples_ND), "samples")
    labels_M = _labels(compared.reference_labels_M, len(reference_MD), "reference")
    classes: dict[str, dict[str, float | int]] = {}
    short: list[str] = []
    fewest = samples_ND.shape[1] + 1
    for label in sorted(set(labels_N.tolist()) | set(labels_M.tolist())):
        samples_nD, reference_mD = samples_ND[labels_N == label], reference_MD[labels_M == label]
        smaller = min(len(samples_nD), len(reference_mD))
        if smaller < FEWEST_PER_CLASS:
            short.append(str(label))
            continue
        fewest = min(fewest, smaller)
        distance = frechet_of_features(samples_nD, reference_mD)
        classes[str(label)] = {"fid": distance.value, "samples": len(samples_nD), "reference": len(reference_mD)}
    if not classes:
        raise UserError(
            f"FID by class needs a class with at least {FEWEST_PER_CLASS} samples and as many reference images; none "
            f"of the {len(short)} classes has them"
        )
    return MetricValue(
        metric=metric,
        value=sum(values["fid"] for values in classes.values()) / len(classes),
        layer=layer,
        library=LIBRARY,
        uses_reference=True,
        parameters={"moments": _MOMENTS, "mean": "over classes", "fewest_per_class": FEWEST_PER_CLASS},
        detail={"classes": classes, "classes_left_out": short},
        notes=_class_notes(len(classes), short, fewest, samples_ND.shape[1]),
    )


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


def _labels(labels_N: Tensor | None, count: int, what: str) -> Tensor:
    if labels_N is None:
        raise UserError(
            f"FID by class needs the class of every image, and those of the {what} are not known: give labels, or "
            "leave per-class-fid out"
        )
    if labels_N.shape != (count,):
        raise ContractError(f"labels {tuple(labels_N.shape)} for {count} images of the {what}")
    return labels_N.cpu()
