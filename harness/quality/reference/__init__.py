"""References that samples are compared with: published statistics, own statistics, images, or a named data set.

reference_set.py  `Reference`, and the check that it fits the samples
official.py       table of published reference files
statistics.py     reader of a file of means and covariances
digits.py         statistics of the digits
load.py           loader of a `Reference` by name or path
make.py           writer of own statistics
"""

from __future__ import annotations

from arvbench.harness.quality.reference.load import load_reference, reference_files, reference_images
from arvbench.harness.quality.reference.reference_set import Origin, Reference, Use

__all__ = [
    "Origin",
    "Reference",
    "Use",
    "load_reference",
    "reference_files",
    "reference_images",
]
