"""Labels of metrics and the direction in which they improve: the one table that reports read.

A metric without a line here is shown in the quality tables under its own name, without a direction. Add one:
`"name": MetricLabel("Label", "lower")`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Better = Literal["lower", "higher", ""]
TableName = Literal["terminal", "results", "quality"]


@dataclass(frozen=True, slots=True)
class MetricLabel:
    """Presentation of one metric."""

    text: str
    better: Better
    narrowest: TableName = "quality"
    """Narrowest table that shows it: "terminal" (includes "results", the table of all cases), "results", or "quality",
    the quality section alone."""


METRICS: Mapping[str, MetricLabel] = {
    "fid": MetricLabel("FID", "lower", "terminal"),
    "fid-infinity": MetricLabel("FID∞", "lower"),
    "sfid": MetricLabel("sFID", "lower"),
    "reconstruction-fid": MetricLabel("rFID", "lower", "terminal"),
    "label-accuracy": MetricLabel("Label accuracy", "higher", "terminal"),
    "is": MetricLabel("IS", "higher", "results"),
    "is-shuffled": MetricLabel("IS, shuffled", "higher"),
    "isc": MetricLabel("IS", "higher", "results"),
    "kid": MetricLabel("KID", "lower"),
    "precision": MetricLabel("Precision", "higher"),
    "recall": MetricLabel("Recall", "higher"),
    "precision-fp32": MetricLabel("Precision, fp32", "higher"),
    "recall-fp32": MetricLabel("Recall, fp32", "higher"),
    "density": MetricLabel("Density", "higher"),
    "coverage": MetricLabel("Coverage", "higher"),
    "cmmd": MetricLabel("CMMD", "lower"),
    "per-class-fid": MetricLabel("FID by class, mean", "lower"),
}
"""In the order of columns; unlisted metrics follow, in the order of first use."""

TERMINAL_METRICS = tuple(name for name, label in METRICS.items() if label.narrowest == "terminal")
HEADLINE_METRICS = tuple(name for name, label in METRICS.items() if label.narrowest != "quality")


def label_of(metric: str) -> MetricLabel:
    """Return the label of a metric; its own name for one without a line in the table."""
    return METRICS.get(metric, MetricLabel(metric, ""))
