"""The demo data set: scikit-learn's digits as 32 x 32 RGB images.

1,797 scans of handwritten digits (the UCI test set, 13 writers) in ten classes. scikit-learn contains them, so nothing
is downloaded.

Shapes   N images
Range    images uint8 0..255 NCHW, three equal channels, ink bright on black; labels int64 0..9
"""

from __future__ import annotations

import gzip
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from arvbench.errors import UnknownName

IMAGE_PX = 32
NUM_CLASSES = 10
HELD_OUT_PER_CLASS = 30
SPLITS = ("train", "held-out")

_SCAN_MAX = 16
"""Largest value of a scan, whose pixels are integers 0..16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Digits:
    """Images with their classes, in the order of the data set."""

    images_N3HW: Tensor
    """(N, 3, 32, 32) uint8."""
    labels_N: Tensor
    """(N,) int64, 0..9."""

    def split(self, name: str) -> Digits:
        """Return "train" (1,497 scans) or "held-out" (300: the last 30 scans of every class), of all 1,797.

        The scans are sorted by writer (about 130 each), so most held-out scans are by writers that are not in "train".
        Call it on the whole data set. Raises UnknownName for another name.
        """
        if name not in SPLITS:
            raise UnknownName("split of digits", name, SPLITS)
        held_out_N = torch.zeros(len(self.labels_N), dtype=torch.bool)
        for label in range(NUM_CLASSES):
            held_out_N[(self.labels_N == label).nonzero()[-HELD_OUT_PER_CLASS:, 0]] = True
        chosen_N = held_out_N if name == "held-out" else ~held_out_N
        return Digits(images_N3HW=self.images_N3HW[chosen_N], labels_N=self.labels_N[chosen_N])


def load_digits_rgb() -> Digits:
    """Return all 1,797 scans, in the order of scikit-learn."""
    rows_N65 = torch.from_numpy(_rows())
    return Digits(
        images_N3HW=scans_to_rgb(rows_N65[:, :-1].unflatten(1, (8, 8))), labels_N=rows_N65[:, -1].to(torch.int64)
    )


def _rows() -> np.ndarray[Any, Any]:
    """Return the 64 pixels and the class of every scan, float64, from the file inside scikit-learn.

    To import scikit-learn for it would take a hundred times as long.
    """
    found = importlib.util.find_spec("sklearn")
    if found is not None and found.origin is not None:
        file = Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            with gzip.open(file, "rt") as lines:
                return np.loadtxt(lines, delimiter=",")
    from sklearn.datasets import load_digits

    pixels_N64, classes_N = load_digits(return_X_y=True)
    return np.column_stack((pixels_N64, classes_N))


def scans_to_rgb(scans_N88: Tensor) -> Tensor:
    """Return (N, 3, 32, 32) uint8 from scans (N, 8, 8) in 0..16: bicubic (a = -0.75), clamped, rounded half to even.

    At a factor of four the bicubic weights are dyadic fractions, so float64 arithmetic is exact and the bytes are equal
    on every machine.
    """
    ink_N1HW = F.interpolate(
        scans_N88.double().unsqueeze(1), size=(IMAGE_PX, IMAGE_PX), mode="bicubic", align_corners=False
    )
    bytes_N1HW = (ink_N1HW.clamp(0, _SCAN_MAX) * (255 / _SCAN_MAX)).round().to(torch.uint8)
    return bytes_N1HW.expand(-1, 3, -1, -1).contiguous()
