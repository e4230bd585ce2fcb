"""Evaluation protocols: which extractor, which metrics, computed exactly how. One file each, one line in the table.

protocol.py   what a protocol is
"""

from __future__ import annotations

from arvbench.harness.quality.protocols.protocol import (
    PROTOCOLS,
    EvaluationProtocol,
    MetricInputs,
    MetricValue,
    Options,
)

__all__ = ["PROTOCOLS", "EvaluationProtocol", "MetricInputs", "MetricValue", "Options"]
