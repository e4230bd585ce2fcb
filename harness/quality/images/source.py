"""The seam of all image sources: N uint8 images of one size in a fixed order, readable by range.

Shapes   N images, H W height and width
Range    uint8 0..255, RGB, channels first
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from arvbench.harness.jobs import MessagePath
from arvbench.results.schema import CaseConfig

UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Origin of the images, as far as known. All fields except `model`, `seeds` and `note` are in the protocol id."""

    labels: str = UNKNOWN
    """Label scheme: "balanced" (equally many of every class, in order), "balanced-shuffled", "uniform" (drawn at
    random), "data set" (labels of real images), "unknown"."""
    uint8_rule: str = UNKNOWN
    """"truncate" int(255 x), "round" int(255 x + 0.5), "127.5x+128", "none" (never were float), "unknown"."""
    resize: str = "none"
    """Resize between generator and evaluation, such as "bicubic:256"."""
    sampling: str = ""
    """Further facts in words, such as "tokenizer reconstruction"; empty for plain samples of a model."""
    model: str = ""
    seeds: str = ""
    """Seeding of each image's noise, in words."""
    note: str = ""


class FileImages(BaseModel):
    """Address of images in a file or folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["files"] = "files"
    path: MessagePath
    resize: str | None = None
    change: str | None = None
    """Change after that (images/changed.py)."""


class ModelImages(BaseModel):
    """Address of images that a case's model samples for its quality request."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["model"] = "model"
    case: CaseConfig
    half_decode: bool = False
    """Decoded in bfloat16 (arvbench.adapters.decoding)."""


class ImageSource(ABC):
    """N images of one size; `read` returns equal bytes for equal ranges, every time."""

    name: str
    """Short name for tables."""
    count: int
    shape: tuple[int, int]
    """Height and width."""
    labels_N: Tensor | None = None
    """(N,) int64 class of every image, if known."""
    class_names: Sequence[str] = ()
    """Names of the classes 0, 1 ... of `labels_N`; empty when labels are numbers with a meaning of their own."""
    seeds_N: Tensor | None = None
    """(N,) int64 seed (or noise index) of every image, if known; equal seeds and labels mean equal images."""
    files: Sequence[str] = ()
    """Relative names of the picture files, in order, when every image is one."""
    passed_over: str = ""
    """Sentence about the files beside the images that are not read; empty when there are none."""
    sampled_here: bool = False
    """True when `read` samples the images in this process, under its precision settings."""
    provenance: Provenance = Provenance()
    address: FileImages | ModelImages | None = None
    """Address under which another process opens these images; None when it cannot."""

    @abstractmethod
    def read(self, start: int, stop: int) -> Tensor:
        """Return images start..stop-1 as uint8 (stop - start, 3, H, W) on the CPU. UserError names an unusable file."""

    @property
    @abstractmethod
    def key(self) -> str:
        """Text of everything that determines the images: other images have another key."""
