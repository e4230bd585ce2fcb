"""Detectors of unbalanced classes and of an order that moves the inception score.

Shapes   N samples, C classes
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from arvbench.harness.quality.detectors.evidence import Evidence, finding
from arvbench.harness.quality.images.source import UNKNOWN
from arvbench.harness.quality.metrics.inception_score import SPLIT_SIZE
from arvbench.harness.quality.reference.official import PUBLISHED
from arvbench.paths import printable
from arvbench.results.schema import Finding

_MANY_STANDARD_ERRORS = 4
_LEAST_SHARE, _LEAST_SHARE_OF_FEW = 0.02, 0.05
"""Smallest difference that counts, relative to the shuffled score; the larger one for fewer than `_FEW_SPLITS` splits,
which estimate their spread badly."""
_FEW_SPLITS = 5
_UNLIKELY = 4.0
"""Threshold in standard deviations of a normal: one in 30,000 files of random labels exceeds it."""
_NEGLIGIBLE = 1 / 30_000
"""The probability of `_UNLIKELY`."""
_PER_CLASS = 5
"""Fewest images per class for the chi-square approximation."""
_SHOWN = 5
_MOST_CLASSES = 1_000_000
"""Labels from here on are numbers of something else than classes: they are counted by their rank."""


def order_of_inception_score(evidence: Evidence) -> Iterator[Finding]:
    """Inception scores in given and shuffled order that differ more than their spread over splits explains."""
    scores = {(number.protocol_name, number.metric): number for number in evidence.numbers}
    for (protocol, metric), shuffled in scores.items():
        given = scores.get((protocol, "is"))
        if metric != "is-shuffled" or given is None or shuffled.spread is None:
            continue
        splits = len(shuffled.detail.get("split_values", ())) or math.ceil(evidence.count / SPLIT_SIZE)
        error = shuffled.spread * math.sqrt(2 / splits)
        least_share = _LEAST_SHARE_OF_FEW if splits < _FEW_SPLITS else _LEAST_SHARE
        explained = max(_MANY_STANDARD_ERRORS * error, least_share * abs(shuffled.value))
        if abs(given.value - shuffled.value) > explained:
            yield finding(
                "order-sensitive-is",
                "warning",
                f"the inception score depends on the order of the samples: is {given.value:.2f} as given, is-shuffled "
                f"{shuffled.value:.2f}. Splits of {SPLIT_SIZE:,} consecutive images hold few of the classes, as in "
                "files in class order; compare is only with values of samples in the same order, is-shuffled with "
                "values of samples in random order",
            )


def label_histogram(evidence: Evidence) -> Iterator[Finding]:
    """Class counts that are less even than stated, or than a random draw would be."""
    stated, labels_N = evidence.provenance.labels, evidence.labels_N
    if labels_N is None:
        yield from _without_labels(stated)
        return
    if int(labels_N.max()) >= _MOST_CLASSES:
        # Memory must not depend on the value of a label.
        labels_N = labels_N.unique(return_inverse=True)[1]
        evidence = replace(evidence, classes=None, class_names=(), reference=None)
    classes = _classes(evidence, labels_N)
    outside_N = labels_N[(labels_N < 0) | (labels_N >= classes)]
    if len(outside_N):
        yield finding(
            "labels-outside",
            "warning",
            f"{len(outside_N):,} of {evidence.count:,} labels are none of the {classes:,} classes (first: "
            f"{int(outside_N[0])}): metrics that read labels are wrong for these images",
        )
        return
    counts_C = labels_N.bincount(minlength=classes)
    spread = _spread(counts_C, evidence.class_names)
    if stated.startswith("balanced"):
        yield from _check_balanced(stated, counts_C, labels_N, spread)
    elif stated != "data set":
        yield from _check_random_draw(stated, counts_C, spread)


def _classes(evidence: Evidence, labels_N: Tensor) -> int:
    """Return the number of classes: the extractor's, the reference data set's, or the largest label plus one.

    Labels come last, because they cannot show that the last classes are missing.
    """
    if evidence.classes is not None:
        return evidence.classes
    reference = evidence.reference
    published = PUBLISHED.get(reference.official) if reference else None
    if published is not None and published.classes is not None:
        return published.classes
    labels = [labels_N] if reference is None or reference.labels_M is None else [labels_N, reference.labels_M]
    return max(1, int(torch.cat(labels).max()) + 1)


def _without_labels(stated: str) -> Iterator[Finding]:
    if stated == UNKNOWN:
        yield finding(
            "labels-unknown",
            "note",
            "labels of the samples are unknown, so it cannot be checked that all classes are there: published FID and "
            "inception scores are of 50 images per class, or of classes drawn uniformly",
        )
    elif stated != "data set":
        yield finding(
            "labels-unknown", "note", f"labels are said to be {stated}; the samples do not hold them to check"
        )


def _check_balanced(stated: str, counts_C: Tensor, labels_N: Tensor, spread: str) -> Iterator[Finding]:
    if int(counts_C.max() - counts_C.min()) > 1:
        yield finding(
            "labels-unbalanced",
            "warning",
            f"labels are said to be {stated} and are not: {spread}. FID and inception score compare with no "
            "number of balanced samples",
        )
    elif stated == "balanced" and bool((labels_N.diff() < 0).any()):
        yield finding(
            "labels-order",
            "note",
            "labels are said to be balanced in order of class and come in another order: the inception score in the "
            "given order (is) depends on it, nothing else does",
        )


def _check_random_draw(stated: str, counts_C: Tensor, spread: str) -> Iterator[Finding]:
    """Check labels of a random draw, or of an unknown scheme."""
    if int(counts_C.sum()) < _PER_CLASS * len(counts_C) or len(counts_C) < 2:
        return
    even = int(counts_C.max() - counts_C.min()) <= 1
    if even and stated == "uniform":
        yield finding(
            "labels-balanced",
            "note",
            f"labels are said to be drawn uniformly and are exactly balanced ({spread}): that is "
            "another scheme with other numbers",
        )
    elif not even and (_deviation_from_uniform(counts_C) > _UNLIKELY or _lacks_classes(counts_C)):
        yield finding(
            "labels-unbalanced",
            "warning",
            f"classes are filled unevenly, more so than by uniform drawing: {spread}. FID and inception "
            "score compare with no published number",
        )
    elif not even and stated != "uniform":
        yield finding(
            "labels-uniform",
            "note",
            f"labels are spread as if drawn uniformly: {spread}. Samples with as many images of every class "
            "are another scheme with other numbers",
        )


def _lacks_classes(counts_C: Tensor) -> bool:
    """Return True when a class is missing that a uniform draw would hardly miss; chi-square may overlook it."""
    classes = len(counts_C)
    chance = classes * math.exp(-float(counts_C.sum()) / classes)
    return bool((counts_C == 0).any()) and chance < _NEGLIGIBLE


def _deviation_from_uniform(counts_C: Tensor) -> float:
    """Return the distance from a uniform draw in standard deviations (chi-square by Wilson and Hilferty)."""
    expected = float(counts_C.sum()) / len(counts_C)
    degrees = len(counts_C) - 1
    chi_square = float(((counts_C.double() - expected) ** 2 / expected).sum())
    scale = 2 / (9 * degrees)
    return float(((chi_square / degrees) ** (1 / 3) - (1 - scale)) / math.sqrt(scale))


def _spread(counts_C: Tensor, names: Sequence[str]) -> str:
    """Describe counts per class; `names` of the classes, if they have any."""
    text = f"{int(counts_C.min()):,}..{int(counts_C.max()):,} images per class"
    missing = torch.nonzero(counts_C == 0)[:, 0].tolist()
    if missing:
        shown = [printable(names[place]) if names else str(place) for place in missing[:_SHOWN]]
        shown += ["..."] if len(missing) > _SHOWN else []
        text += f", {len(missing):,} of {len(counts_C):,} classes missing ({', '.join(shown)})"
    return text


def label_scheme_of_recipe(evidence: Evidence) -> Iterator[Finding]:
    """A label scheme that differs from that of the official samples."""
    official, stated = evidence.recipe.get("labels"), evidence.provenance.labels
    if official is None or stated in (UNKNOWN, official) or evidence.reconstructions:
        return
    yield finding(
        "label-scheme",
        "note",
        f"labels are {stated}; the official samples of this model have {official} labels: compare FID and inception "
        "score with its published numbers only with that said",
    )


def file_order(evidence: Evidence) -> Iterator[Finding]:
    """Numbered files that were read in text order, not in number order."""
    names = list(evidence.files)
    by_number = sorted(names, key=_numeric)
    if names == by_number:
        return
    first = next(i for i, (read, number) in enumerate(zip(names, by_number, strict=True)) if read != number)
    yield finding(
        "file-order",
        "note",
        f"files were read in the order of their names as text, {names[first]} before {by_number[first]}: the inception "
        "score in the given order (is) and labels that were meant for the order of the numbers depend on it",
    )


def _numeric(name: str) -> list[tuple[str, int, str]]:
    return [(text, int(digits or -1), digits) for text, digits in re.findall(r"([^0-9]*)([0-9]*)", name)]
