"""Evaluation protocols: an extractor and the metrics of its features, one declaration and one table line each.

protocol.py      types, and the table
numbers.py       metrics with this package's own arithmetic, for several protocols
single_layer.py  protocols made of them, on one layer of one network
"""

from __future__ import annotations

from arvbench.harness.quality.protocols.protocol import (
    PROTOCOLS,
    EvaluationProtocol,
    Metric,
    MetricInputs,
    MetricValue,
    Options,
)

__all__ = ["PROTOCOLS", "EvaluationProtocol", "Metric", "MetricInputs", "MetricValue", "Options"]
