"""Feature extractors: networks that turn images into the features that the metrics compare.

Add one: a file with a function (WeightFiles, device) -> Extractor, and a line in EXTRACTORS.
"""

from __future__ import annotations

from arvbench.harness.quality.extractors.extractor import EXTRACTORS, Extractor, load_extractor

__all__ = ["EXTRACTORS", "Extractor", "load_extractor"]
