"""Named rules for the resize between generator and evaluation; metrics of differently resized images do not compare.

bicubic:256      torch's bicubic (a = -0.75), no antialiasing, half-pixel centres, applied to the float image in [-1, 1]
                 before it becomes bytes, as LlamaGen and PAR do from 384 px. Images in files are bytes already: there
                 it reads y = byte / 127.5 - 1 and writes int(127.5 y + 128), a rule of its own, named "of bytes".
pil-bicubic:256  Pillow's bicubic (a = -0.5) with antialiasing, applied to bytes: one rule for models and for files.

Shapes   n images, H W height and width, P side of the resized image
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from arvbench.adapters.pixels import from_uint8, to_uint8, to_unit_range
from arvbench.errors import UserError
from arvbench.harness.quality.images.source import ImageSource
from arvbench.harness.quality.images.stored import check_range

NO_RESIZE = "none"
KINDS = ("bicubic", "pil-bicubic")
MAX_PX = 8192
_AT_ONCE = 16
"""Images that are in memory as floats at a time."""
_OF_BYTES_RULE = "127.5x+128"


@dataclass(frozen=True, slots=True)
class Resize:
    """A rule that resizes square images to `px` x `px`."""

    kind: str
    """One of KINDS."""
    px: int

    def __str__(self) -> str:
        return f"{self.kind}:{self.px}"

    @property
    def shape(self) -> tuple[int, int]:
        return (self.px, self.px)

    def name_of_bytes(self) -> str:
        """Return the name of the rule that `of_bytes` applies."""
        return f"{self} of bytes" if self.kind == "bicubic" else str(self)

    def of_decoded(self, decoded_n3HW: Tensor, uint8_rule: str) -> Tensor:
        """Return bytes (n, 3, px, px) from decoded float images, nominally in [0, 1]."""
        if self.kind == "pil-bicubic":
            return self.of_bytes(to_uint8(decoded_n3HW, uint8_rule))
        return to_uint8(to_unit_range(self._bicubic(decoded_n3HW.float() * 2 - 1)), uint8_rule)

    def of_bytes(self, images_n3HW: Tensor) -> Tensor:
        """Return bytes (n, 3, px, px) from uint8 images."""
        resize = self._bicubic_of_bytes if self.kind == "bicubic" else self._pil
        resized_n3PP = torch.empty(len(images_n3HW), 3, *self.shape, dtype=torch.uint8)
        for start in range(0, len(images_n3HW), _AT_ONCE):  # floats take four times the memory of bytes
            resized_n3PP[start : start + _AT_ONCE] = resize(images_n3HW[start : start + _AT_ONCE])
        return resized_n3PP

    def check(self, shape: tuple[int, int], name: str) -> None:
        """Raise UserError for images that are not square: they would be distorted."""
        if shape[0] != shape[1]:
            raise UserError(
                f"{name} has images of {shape[1]} x {shape[0]}; {self} resizes square images only: crop first"
            )

    def _bicubic(self, images_n3HW: Tensor) -> Tensor:
        return F.interpolate(images_n3HW, size=self.shape, mode="bicubic", align_corners=False, antialias=False)

    def _bicubic_of_bytes(self, images_n3HW: Tensor) -> Tensor:
        return to_uint8(to_unit_range(self._bicubic(from_uint8(images_n3HW))), _OF_BYTES_RULE)

    def _pil(self, images_n3HW: Tensor) -> Tensor:
        pictures = (Image.fromarray(image) for image in images_n3HW.cpu().permute(0, 2, 3, 1).contiguous().numpy())
        resized = [np.asarray(picture.resize(self.shape, Image.Resampling.BICUBIC)) for picture in pictures]
        return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2)


def parse_resize(name: str | None) -> Resize | None:
    """Return the rule of this name; None for None and "none". Raises UserError, listing the rules, for another."""
    if name is None or name == NO_RESIZE:
        return None
    match = re.fullmatch(r"(?P<kind>[a-z-]+):(?P<px>[0-9]{1,5})", name)
    if match is None or match["kind"] not in KINDS or not 1 <= int(match["px"]) <= MAX_PX:
        raise UserError(
            f"no resize {name!r}; there are bicubic:PX (torch, no antialiasing, before the float becomes bytes) and "
            f"pil-bicubic:PX (Pillow, antialiased, of bytes) with PX from 1 to {MAX_PX}, such as bicubic:256, and none"
        )
    return Resize(match["kind"], int(match["px"]))


class ResizedSource(ImageSource):
    """Images of another source, resized as bytes."""

    def __init__(self, source: ImageSource, resize: Resize) -> None:
        resize.check(source.shape, source.name)
        self._source, self._resize = source, resize
        self.name, self.count, self.shape = source.name, source.count, resize.shape
        self.labels_N, self.class_names = source.labels_N, source.class_names
        self.seeds_N, self.files, self.passed_over = source.seeds_N, source.files, source.passed_over
        before = source.provenance.resize
        names = [*([] if before == NO_RESIZE else [before]), resize.name_of_bytes()]
        self.provenance = replace(source.provenance, resize=", then ".join(names))

    def read(self, start: int, stop: int) -> Tensor:
        check_range(start, stop, self.count, self.name)
        return self._resize.of_bytes(self._source.read(start, stop))

    @property
    def key(self) -> str:
        return f"{self._source.key}\nresize {self._resize.name_of_bytes()}"
