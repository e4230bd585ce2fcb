"""Samples as tensors: in a .safetensors file, or in memory.

Keys     images uint8 (N, 3, H, W) or (N, H, W, 3), told apart by the shape; labels, seeds (N,) integers
Metadata arvbench JSON (images/stored.py)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from arvbench.disk import utf8_name
from arvbench.errors import UserError
from arvbench.harness.quality.identity import images_sha256
from arvbench.harness.quality.images.source import ImageSource, Provenance
from arvbench.harness.quality.images.stored import (
    MAX_PROVENANCE_BYTES,
    PROVENANCE_KEY,
    Description,
    check_images,
    check_range,
    check_unchanged,
    file_state,
    integers,
    read_description,
    with_notes,
)

IMAGES_KEY = "images"
_DTYPES = {"U8": "uint8", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}


class SafetensorsSource(ImageSource):
    """Images of one .safetensors file, read range by range. Raises UserError, naming the file."""

    def __init__(self, path: Path) -> None:
        self._path, self.name = path, path.name
        self._state = file_state(path)
        with _opened(path) as stored:
            keys = list(stored.keys())
            if IMAGES_KEY not in keys:
                raise UserError(f"{path} has no tensor {IMAGES_KEY!r}; it has: {', '.join(keys) or 'no tensors'}")
            images = stored.get_slice(IMAGES_KEY)
            shape = tuple(images.get_shape())
            self._channels_first = _channels_first(f"{path}: {IMAGES_KEY}", images.get_dtype(), shape)
            self.count = shape[0]
            self.shape = (shape[2], shape[3]) if self._channels_first else (shape[1], shape[2])
            stated = _description(path, stored.metadata() or {})
            self.labels_N, rank_note = stated.labels(self._integers(stored, keys, "labels"), f"{path}: labels")
            self.class_names = stated.class_names
            self.seeds_N = self._integers(stored, keys, "seeds")
            self.provenance = with_notes(stated.provenance, rank_note)

    def read(self, start: int, stop: int) -> Tensor:
        check_range(start, stop, self.count, self.name)
        check_unchanged(self._path, self._state)
        with _opened(self._path) as stored:
            images: Tensor = stored.get_slice(IMAGES_KEY)[start:stop]
        return (images if self._channels_first else images.permute(0, 3, 1, 2)).contiguous()

    @property
    def key(self) -> str:
        return f"safetensors {self._path.resolve()} {self._state}"

    def _integers(self, stored: Any, keys: list[str], key: str) -> Tensor | None:
        if key not in keys:
            return None
        where, shape = f"{self._path}: {key}", stored.get_slice(key).get_shape()
        if shape != [self.count]:
            raise UserError(f"{where} has shape {shape}, expected one integer for each of {self.count} images")
        values = stored.get_tensor(key)
        if values.is_floating_point() or values.dtype == torch.bool:
            raise UserError(f"{where} must be integers, it is {values.dtype}")
        return integers(values.numpy(), self.count, where)


class TensorSource(ImageSource):
    """Images uint8 (N, 3, H, W) in memory."""

    def __init__(
        self,
        images_N3HW: Tensor,
        *,
        name: str = "images in memory",
        labels_N: Tensor | None = None,
        seeds_N: Tensor | None = None,
        provenance: Provenance | None = None,
    ) -> None:
        """Raise UserError unless it is a batch of uint8 RGB images, with one label and seed per image if any."""
        check_images(name, str(images_N3HW.dtype).removeprefix("torch."), images_N3HW.shape)
        if images_N3HW.shape[1] != 3:
            raise UserError(f"{name} is channels last {tuple(images_N3HW.shape)}; give N x 3 x H x W")
        self._images_N3HW, self.name = images_N3HW.cpu(), name
        self.count = len(images_N3HW)
        self.shape = (images_N3HW.shape[2], images_N3HW.shape[3])
        self.labels_N = None if labels_N is None else integers(labels_N.cpu(), self.count, f"labels of {name}")
        self.seeds_N = None if seeds_N is None else integers(seeds_N.cpu(), self.count, f"seeds of {name}")
        self.provenance = provenance or Provenance()

    def read(self, start: int, stop: int) -> Tensor:
        check_range(start, stop, self.count, self.name)
        return self._images_N3HW[start:stop].clone()

    @property
    def key(self) -> str:
        return f"tensor {images_sha256(self._images_N3HW)}"


def _channels_first(where: str, dtype: str, shape: tuple[int, ...]) -> bool:
    check_images(where, _DTYPES.get(dtype, dtype), shape)
    if shape[1] == shape[3]:
        raise UserError(f"{where} {shape} may be channels first or channels last: save it in an .npz, which is NHWC")
    return shape[1] == 3


def _description(path: Path, metadata: dict[str, str]) -> Description:
    if PROVENANCE_KEY not in metadata:
        return Description(provenance=Provenance())
    where, text = f"{path}: metadata {PROVENANCE_KEY}", metadata[PROVENANCE_KEY]
    if len(text) > MAX_PROVENANCE_BYTES:
        raise UserError(f"{where} ({len(text)} characters) was not written by arvbench")
    return read_description(text, where)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with utf8_name(path) as opened, safe_open(opened, framework="pt") as stored:
            yield stored
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a readable .safetensors, or it is truncated or damaged ({error})") from error
