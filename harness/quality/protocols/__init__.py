"""Evaluation protocols: which extractor, which metrics, computed exactly how. One file each, one line in the table.

base.py   what a protocol is
"""

from __future__ import annotations

from arvbench.harness.quality.protocols.base import PROTOCOLS, Compared, EvaluationProtocol, Number, Options

__all__ = ["PROTOCOLS", "Compared", "EvaluationProtocol", "Number", "Options"]
