"""Evaluation protocols: an extractor and the metrics on its features. One declaration each, one line in the table.

protocol.py      types, and the table
numbers.py       metrics of our own arithmetic that several protocols report
single_layer.py  protocols of such metrics on one layer of one network
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
