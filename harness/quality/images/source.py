"""What every source of images is: N uint8 images of one size, in a fixed order, of which any range can be read.

Shapes   N images, H W height and width
Range    uint8 0..255, RGB, channels first
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """How the images came to be, as far as it is known. All but `model`, `seeds` and `note` is in the protocol id."""

    labels: str = UNKNOWN
    """Label scheme: "balanced" (as many of every class, in order), "balanced-shuffled", "uniform" (drawn at random),
    "data set" (those of real images), "unknown"."""
    uint8_rule: str = UNKNOWN
    """"truncate" int(255 x), "round" int(255 x + 0.5), "127.5x+128", "none" (never float), "unknown"."""
    resize: str = "none"
    """Resize between generator and evaluation, such as "bicubic:256"."""
    sampling: str = ""
    """Anything else, in words: "tokenizer reconstruction"; empty for plain samples of a model."""
    model: str = ""
    seeds: str = ""
    """How the noise of each image was seeded, in words."""
    note: str = ""


class ImageSource(ABC):
    """N images of one size; `read` gives the same bytes for the same range every time."""

    name: str
    """Short name for tables."""
    count: int
    shape: tuple[int, int]
    """Height and width."""
    labels_N: Tensor | None = None
    """(N,) int64 class of every image, where it is known."""
    seeds_N: Tensor | None = None
    """(N,) int64 seed (or noise index) of every image, where it is known; equal seeds and labels mean equal images."""
    files: Sequence[str] = ()
    """Relative names of the picture files, in order, where every image is one."""
    drawn_here: bool = False
    """Whether `read` draws the images, under the settings of this process."""
    provenance: Provenance = Provenance()

    @abstractmethod
    def read(self, start: int, stop: int) -> Tensor:
        """Images start..stop-1 as uint8 (stop - start, 3, H, W) on the CPU. UserError names a file it cannot use."""

    @property
    @abstractmethod
    def key(self) -> str:
        """What the images are determined by, as text: a work folder of another key holds other features."""
