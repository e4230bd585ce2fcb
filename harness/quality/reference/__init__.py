"""What samples are compared with: official statistics, a file of `arvbench reference make`, images, or the digits.

base.py        `Reference`, and whether it fits the samples
official.py    the table of published reference files
statistics.py  reading a file of means and covariances
load.py        from what the user names to a `Reference`
make.py        writing a file of one's own
"""

from __future__ import annotations

from arvbench.harness.quality.reference.load import DIGITS, load_reference, reference_files, reference_images
from arvbench.harness.quality.reference.reference_set import Origin, Reference, Use, check_resolution

__all__ = [
    "DIGITS",
    "Origin",
    "Reference",
    "Use",
    "check_resolution",
    "load_reference",
    "reference_files",
    "reference_images",
]
