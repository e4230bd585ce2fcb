"""Samples in an .npz file in the ADM evaluator's layout: `arr_0` uint8 (N, H, W, 3).

50,000 images of 256 px are 9.8 GB, so the array is never in memory as a whole. In a stored member (`numpy.savez`) any
range is read at its place in the file. A deflated one (`numpy.savez_compressed`) can only be unpacked in order: reading
backwards starts again at the first image.

Keys     arr_0 images; labels, seeds (N,) integers; arr_1 (N,) integers, read as labels when `labels` is absent;
         arvbench uint8 bytes of JSON (images/stored.py). Other keys are ignored.
Source   openai/guided-diffusion, evaluations/evaluator.py; layout of .npy: numpy.lib.format
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from arvbench.errors import UserError
from arvbench.harness.quality.images.npy_members import (
    ArrayMember,
    array_keys,
    check_sum,
    find_array,
    read_array,
    read_bytes,
    read_fully,
    readable,
)
from arvbench.harness.quality.images.source import ImageSource, Provenance
from arvbench.harness.quality.images.stored import (
    MAX_PROVENANCE_BYTES,
    PROVENANCE_KEY,
    Description,
    check_images,
    check_integers,
    check_range,
    check_unchanged,
    file_state,
    integers,
    read_description,
    with_notes,
)

IMAGES_KEY = "arr_0"


class NpzSource(ImageSource):
    """Images of one .npz file. Pickles in it are refused, never loaded.

    Raises UserError, naming the file, for one that cannot be used: when it is opened, or, if the bytes of its images
    are damaged, at the first read, which compares them with their checksum.
    """

    def __init__(self, path: Path) -> None:
        self._path, self.name = path, path.name
        self._state = file_state(path)
        with readable(path), zipfile.ZipFile(path) as archive:
            keys = array_keys(archive)
            self._array = _find_images(path, archive, keys)
            self.count, height, width, _ = self._array.shape
            self.shape = (height, width)
            label_key = "labels" if "labels" in keys else "arr_1"
            self.labels_N, label_note = self._integers(archive, keys, label_key)
            self.seeds_N, _ = self._integers(archive, keys, "seeds")
            stated = Description(provenance=Provenance())
            if PROVENANCE_KEY in keys:
                text = read_bytes(path, archive, PROVENANCE_KEY, at_most=MAX_PROVENANCE_BYTES)
                stated = read_description(text, f"{path}: {PROVENANCE_KEY}")
        self.labels_N, rank_note = stated.labels(self.labels_N, f"{path}: {label_key}")
        self.class_names = stated.class_names
        statistics = "the file holds reference statistics (mu, sigma) too" if "mu" in keys else ""
        self.provenance = with_notes(stated.provenance, label_note, rank_note, statistics)
        self._checked = False
        self._unpacking: tuple[int, IO[bytes]] | None = None
        """Process and stream of a compressed member: forked processes would share its position, so each opens one."""

    def read(self, start: int, stop: int) -> Tensor:
        check_range(start, stop, self.count, self.name)
        height, width = self.shape
        image_bytes = height * width * 3
        images_nHW3 = np.empty((stop - start, height, width, 3), dtype=np.uint8)
        check_unchanged(self._path, self._state)
        with readable(self._path):
            if not self._checked:  # parts of an array have no checksum of their own
                check_sum(self._path, self._array)
                self._checked = True
            self._fill(images_nHW3.reshape(-1).data, self._array.start + start * image_bytes)
        return torch.from_numpy(images_nHW3).permute(0, 3, 1, 2).contiguous()

    @property
    def key(self) -> str:
        return f"npz {self._path.resolve()} {self._state}"

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_unpacking": None}

    def _fill(self, pixels: memoryview, position: int) -> None:
        """Read bytes of the member. They are not mapped: a file that shrinks raises an error and does not crash."""
        if self._array.offset is not None:
            with self._path.open("rb") as file:
                file.seek(self._array.offset + position)
                done = file.readinto(pixels)
        else:
            stream = self._stream()
            stream.seek(position)
            done = read_fully(stream, pixels)
        if done != len(pixels):
            raise EOFError(f"{len(pixels) - done} bytes are missing")

    def _stream(self) -> IO[bytes]:
        if self._unpacking is None or self._unpacking[0] != os.getpid():
            self._unpacking = (os.getpid(), zipfile.ZipFile(self._path).open(self._array.name))  # noqa: SIM115
        return self._unpacking[1]

    def _integers(self, archive: zipfile.ZipFile, keys: list[str], key: str) -> tuple[Tensor | None, str]:
        """Read one integer per image from `key`, and a note. arr_1 has no fixed meaning: other content is ignored."""
        if key not in keys:
            return None, ""
        array = find_array(self._path, archive, key)
        if key == "arr_1" and (array.shape != (self.count,) or array.dtype.kind not in "iu"):
            return None, f"arr_1 ({array.dtype}, {array.shape}) is not read: no labels"
        where = f"{self._path}: {key}"
        check_integers(array.dtype, array.shape, self.count, where)
        values_N = integers(read_array(archive, array), self.count, where)
        if key != "arr_1":
            return values_N, ""
        if self.count > 1 and len(values_N.unique()) == self.count:
            return None, "arr_1 is not read: its values are all different, as numbers or seeds of images are"
        return values_N, "labels are those of arr_1"


def _find_images(path: Path, archive: zipfile.ZipFile, keys: list[str]) -> ArrayMember:
    if IMAGES_KEY not in keys:
        if {"mu", "sigma"} <= set(keys):
            raise UserError(f"{path} holds statistics (mu, sigma) and no images: it is a reference, use --reference")
        raise UserError(f"{path} has no {IMAGES_KEY} with the images; it has: {', '.join(keys) or 'no arrays'}")
    array = find_array(path, archive, IMAGES_KEY)
    where = f"{path}: {IMAGES_KEY}"
    check_images(where, str(array.dtype), array.shape)
    if array.shape[3] != 3:
        raise UserError(f"{where} {array.shape} is channels first (NCHW); this file format has NHWC: transpose it")
    if array.fortran:
        raise UserError(f"{where} is in Fortran order: save numpy.ascontiguousarray of it")
    return array
