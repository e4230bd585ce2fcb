"""What a reader must know about samples and reference before believing a number: found, not assumed.

Each detector is a function from `Evidence` to findings. Add one: write it, and name it in DETECTORS.

labels.py   classes and order; against.py  the reference; samples.py  number and repetition; pixels.py  bytes and files
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from arvbench.harness.quality.detectors import against, labels, pixels, samples
from arvbench.harness.quality.detectors.evidence import Evidence, MetricFacts
from arvbench.results.schema import Finding

DETECTORS: tuple[Callable[[Evidence], Iterator[Finding]], ...] = (
    against.samples_are_reference,
    against.use_of_reference,
    against.origin_of_reference,
    against.unpublished_images,
    against.few_reference_images,
    samples.few_in_reference,
    samples.few_samples,
    samples.short_splits,
    samples.duplicate_images,
    samples.duplicate_seeds,
    labels.order_of_inception_score,
    labels.label_histogram,
    labels.label_scheme_of_recipe,
    labels.file_order,
    pixels.rounding,
    pixels.jpeg,
    pixels.resize_of_recipe,
    pixels.precision_of_arithmetic,
)


def find(evidence: Evidence) -> tuple[Finding, ...]:
    """All findings, warnings first, otherwise in the order of the table."""
    found = [finding for detector in DETECTORS for finding in detector(evidence)]
    return tuple(sorted(found, key=lambda finding: finding.severity != "warning"))


__all__ = ["DETECTORS", "Evidence", "MetricFacts", "find"]
