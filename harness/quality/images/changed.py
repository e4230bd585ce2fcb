"""Samples with one thing changed that is known to move a number, for `arvbench eval --also`.

images=N       N of the images, drawn with seed 0, in their order
jpeg=Q         written as JPEG of quality Q (1..100) and read again
uint8=A to B   bytes that rule A made, as rule B would have made them. The floats are gone, so it is a simulation: where
               the rules differ by one in half of all cases, a coin is thrown for every byte, by the image's number.
               0 and 255 stay, for most of them are cut-off values, which no rule moves.

Shapes   N images, n images of one read, H W height and width
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from arvbench.errors import UnknownName, UserError
from arvbench.harness.quality.images.source import UNKNOWN, FileImages, ImageSource
from arvbench.harness.quality.images.stored import check_range

CHANGES = ("images", "jpeg", "uint8")
_FEWEST, _BEST_JPEG = 2, 100
_SEED = 0
_STEPS = {"truncate": 0, "round": 1, "127.5x+128": 1}
"""Rule -> what it adds to the truncated byte in half of all cases. The last two differ only in exact halves."""


def image_change(cause: str, value: str, source: ImageSource) -> str:
    """Return the change of `source` by `cause`, one of CHANGES, as text that `changed` reads.

    Raises UserError for a value that these images cannot have.
    """
    where = f"{cause}={value}"
    if cause == "uint8":
        return f"uint8={_rule(source)} to {_known_rule(value)}"
    number = int(value) if re.fullmatch(r"[0-9]{1,9}", value) else 0
    if cause == "images" and not _FEWEST <= number < source.count:
        raise UserError(f"{where}: {source.name} has {source.count} images; give a number from 2 to {source.count - 1}")
    if cause == "jpeg" and not 1 <= number <= _BEST_JPEG:
        raise UserError(f"{where}: the quality of a JPEG is a number from 1 to {_BEST_JPEG}")
    return f"{cause}={number}"


def _rule(source: ImageSource) -> str:
    rule = source.provenance.uint8_rule
    if rule in _STEPS:
        return rule
    if rule == UNKNOWN:
        raise UserError(f"{source.name} does not say by which rule its floats became bytes: say it with --uint8-rule")
    raise UserError(f"{source.name} has the uint8 rule {rule!r}: there were no floats, so no rule to change")


def _known_rule(rule: str) -> str:
    if rule not in _STEPS:
        raise UnknownName("uint8 rule", rule, _STEPS)
    return rule


def changed(source: ImageSource, change: str) -> ImageSource:
    """Return the images of `source` after a change, in the words of `image_change`."""
    cause, _, value = change.partition("=")
    if cause == "images":
        return ChangedSource(source, change, places_N=_drawn(source.count, int(value)))
    if cause == "jpeg":
        return ChangedSource(source, change, pixels=_Jpeg(int(value)))
    before, _, after = value.partition(" to ")
    return ChangedSource(source, change, pixels=_Steps(_STEPS[after] - _STEPS[before]))


def _drawn(count: int, number: int) -> Tensor:
    chosen = np.random.default_rng(_SEED).permutation(count)[:number]
    return torch.from_numpy(np.sort(chosen))


Pixels = Callable[[Tensor, Tensor], Tensor]
"""Function of images (n, 3, H, W) and their numbers (n,) to other images of that shape."""


@dataclass(frozen=True, slots=True)
class _Jpeg:
    quality: int

    def __call__(self, images_n3HW: Tensor, _places_n: Tensor) -> Tensor:
        pictures = images_n3HW.permute(0, 2, 3, 1).contiguous().numpy()
        read = [self._through_jpeg(picture) for picture in pictures]
        return torch.from_numpy(np.stack(read)).permute(0, 3, 1, 2).contiguous()

    def _through_jpeg(self, picture_HW3: np.ndarray) -> np.ndarray:
        stream = io.BytesIO()
        Image.fromarray(picture_HW3).save(stream, "JPEG", quality=self.quality)
        return np.asarray(Image.open(stream).convert("RGB"))


@dataclass(frozen=True, slots=True)
class _Steps:
    """Adds `step` (-1, 0 or 1) to half of the bytes between 0 and 255."""

    step: int

    def __call__(self, images_n3HW: Tensor, places_n: Tensor) -> Tensor:
        if self.step == 0:
            return images_n3HW
        coins = [np.random.Generator(np.random.Philox(key=int(place))) for place in places_n]
        shape = tuple(images_n3HW.shape[1:])
        moved_n3HW = torch.from_numpy(np.stack([coin.integers(0, 2, shape, dtype=np.uint8) for coin in coins]))
        moved_n3HW *= (images_n3HW > 0) & (images_n3HW < 255)
        return images_n3HW + moved_n3HW if self.step > 0 else images_n3HW - moved_n3HW


class ChangedSource(ImageSource):
    """Images of another source: those at some places, with other pixels."""

    def __init__(
        self, source: ImageSource, change: str, *, places_N: Tensor | None = None, pixels: Pixels | None = None
    ) -> None:
        self._source, self._change, self._pixels = source, change, pixels
        self._places_N = torch.arange(source.count) if places_N is None else places_N
        self.name, self.count, self.shape = source.name, len(self._places_N), source.shape
        self.labels_N = None if source.labels_N is None else source.labels_N[self._places_N]
        self.seeds_N = None if source.seeds_N is None else source.seeds_N[self._places_N]
        self.class_names, self.passed_over = source.class_names, source.passed_over
        self.files = [source.files[place] for place in self._places_N.tolist()] if source.files else ()
        stated = source.provenance
        scheme = UNKNOWN if places_N is not None and stated.labels.startswith("balanced") else stated.labels
        words = "; ".join(filter(None, [stated.sampling, f"changed: {change}"]))
        self.provenance = replace(stated, labels=scheme, sampling=words)
        if isinstance(source.address, FileImages):
            self.address = source.address.model_copy(update={"change": change})

    def read(self, start: int, stop: int) -> Tensor:
        check_range(start, stop, self.count, self.name)
        places_n = self._places_N[start:stop]
        if not len(places_n):
            return torch.empty(0, 3, *self.shape, dtype=torch.uint8)
        images_n3HW = torch.cat([self._source.read(*run) for run in _runs(places_n.tolist())])
        return images_n3HW if self._pixels is None else self._pixels(images_n3HW, places_n)

    @property
    def key(self) -> str:
        return f"{self._source.key}\nchange {self._change}"


def _runs(places: list[int]) -> list[tuple[int, int]]:
    """Return ascending places, at least one, as ranges (first, behind the last)."""
    gaps = [(place + 1, following) for place, following in pairwise(places) if following != place + 1]
    begins, ends = [places[0], *(begin for _, begin in gaps)], [*(end for end, _ in gaps), places[-1] + 1]
    return list(zip(begins, ends, strict=True))
