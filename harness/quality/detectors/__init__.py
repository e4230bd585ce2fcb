"""Detectors of flaws in samples or reference that make a number misleading.

A detector is a function from `Evidence` to findings with a line in DETECTORS.

labels.py   classes and their order    samples.py  too few images, and duplicates
against.py  unsuitable references      pixels.py   range, rounding, JPEG, resizes, reduced precision
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from arvbench.harness.quality.detectors.evidence import Evidence, MetricFacts
from arvbench.registry import Registry
from arvbench.results.schema import Finding

DETECTORS: Registry[Callable[[Evidence], Iterator[Finding]]] = Registry(
    "detector",
    {
        "samples-are-reference": "arvbench.harness.quality.detectors.against:samples_are_reference",
        "copies-in-reference": "arvbench.harness.quality.detectors.against:copies_in_reference",
        "use-of-reference": "arvbench.harness.quality.detectors.against:use_of_reference",
        "origin-of-reference": "arvbench.harness.quality.detectors.against:origin_of_reference",
        "unpublished-images": "arvbench.harness.quality.detectors.against:unpublished_images",
        "few-reference-images": "arvbench.harness.quality.detectors.against:few_reference_images",
        "few-in-reference": "arvbench.harness.quality.detectors.samples:few_in_reference",
        "few-samples": "arvbench.harness.quality.detectors.samples:few_samples",
        "short-splits": "arvbench.harness.quality.detectors.samples:short_splits",
        "duplicate-images": "arvbench.harness.quality.detectors.samples:duplicate_images",
        "duplicate-seeds": "arvbench.harness.quality.detectors.samples:duplicate_seeds",
        "order-of-inception-score": "arvbench.harness.quality.detectors.labels:order_of_inception_score",
        "label-histogram": "arvbench.harness.quality.detectors.labels:label_histogram",
        "label-scheme-of-recipe": "arvbench.harness.quality.detectors.labels:label_scheme_of_recipe",
        "file-order": "arvbench.harness.quality.detectors.labels:file_order",
        "range-of-bytes": "arvbench.harness.quality.detectors.pixels:range_of_bytes",
        "rounding": "arvbench.harness.quality.detectors.pixels:rounding",
        "jpeg": "arvbench.harness.quality.detectors.pixels:jpeg",
        "resize-of-recipe": "arvbench.harness.quality.detectors.pixels:resize_of_recipe",
        "precision-of-arithmetic": "arvbench.harness.quality.detectors.pixels:precision_of_arithmetic",
    },
)


def find(evidence: Evidence) -> tuple[Finding, ...]:
    """Return all findings, warnings first, otherwise in the order of the table."""
    findings = [finding for detector in DETECTORS.values() for finding in detector(evidence)]
    return tuple(sorted(findings, key=lambda finding: finding.severity != "warning"))


__all__ = ["DETECTORS", "Evidence", "MetricFacts", "find"]
