"""Feature extractors: networks that turn images into the features that the metrics compare.

To add one, write a file with a function (ExtractorFiles, device) -> Extractor, and a line in extractor.py's table.
"""

from __future__ import annotations

from arvbench.harness.quality.extractors.extractor import EXTRACTORS, Extractor, load_extractor

__all__ = ["EXTRACTORS", "Extractor", "load_extractor"]
