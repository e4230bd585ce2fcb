"""Samples in a .npz file as the ADM evaluator takes it: `arr_0` uint8 (N, H, W, 3).

50,000 images of 256 px are 9.8 GB, so the array is never in memory as a whole. Of a stored (uncompressed) member, what
`numpy.savez` writes, any range is read from its place in the file. A deflated member (`numpy.savez_compressed`) can
only be unpacked in order: reading on is free, going back starts again at the first image.

Keys     arr_0 images; labels, seeds (N,) integers; arr_1 (N,) integers taken as labels where `labels` is absent;
         arvbench uint8 bytes of JSON (images/stored.py). Others are left alone.
Source   openai/guided-diffusion, evaluations/evaluator.py (PROTOCOLS section 1); layout of .npy: numpy.lib.format
"""

from __future__ import annotations

import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from arvbench.errors import UserError
from arvbench.harness.quality.images.base import ImageSource, Provenance
from arvbench.harness.quality.images.stored import (
    MAX_PROVENANCE_BYTES,
    PROVENANCE_KEY,
    check_images,
    check_range,
    check_unchanged,
    file_state,
    integers,
    read_provenance,
    with_notes,
)

IMAGES_KEY = "arr_0"
_LOCAL_HEADER = struct.Struct("<4s22xHH")
"""Signature, length of the name, length of the extra field (ZIP specification, 4.3.7)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Array:
    """Where one array is."""

    member: str
    dtype: np.dtype
    shape: tuple[int, ...]
    fortran: bool
    start: int
    """Bytes of the .npy header."""
    offset: int | None
    """Where the member begins in the file; None when it is compressed."""


class NpzSource(ImageSource):
    """Images of one .npz file. Pickles in it are refused, never loaded.

    Raises UserError, naming the file, for one that cannot be used, when it is opened; a damaged compressed one can be
    found out only by reading.
    """

    def __init__(self, path: Path) -> None:
        self._path, self.name = path, path.name
        self._state = file_state(path)
        with _readable(path), zipfile.ZipFile(path) as archive:
            keys = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
            self._array = _find_images(path, archive, keys)
            self.count, height, width, _ = self._array.shape
            self.shape = (height, width)
            label_key = "labels" if "labels" in keys else "arr_1"
            self.labels_N, label_note = self._integers(archive, keys, label_key)
            self.seeds_N, _ = self._integers(archive, keys, "seeds")
            stated = _provenance(path, archive, keys)
        statistics = "the file holds reference statistics (mu, sigma) too" if "mu" in keys else ""
        self.provenance = with_notes(stated, label_note, statistics)
        self._unpacking: tuple[int, IO[bytes]] | None = None
        """Process and open stream of a compressed member: its position is shared with forked processes."""

    def read(self, start: int, stop: int) -> Tensor:
        check_range(start, stop, self.count, self.name)
        height, width = self.shape
        image_bytes = height * width * 3
        images_nHW3 = np.empty((stop - start, height, width, 3), dtype=np.uint8)
        check_unchanged(self._path, self._state)
        with _readable(self._path):
            self._fill(images_nHW3.reshape(-1).data, self._array.start + start * image_bytes)
        return torch.from_numpy(images_nHW3).permute(0, 3, 1, 2).contiguous()

    @property
    def key(self) -> str:
        return f"npz {self._path.resolve()} {self._state}"

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_unpacking": None}

    def _fill(self, pixels: memoryview, position: int) -> None:
        """Read bytes of the member. They are not mapped: a file that shrinks then is an error and not a crash."""
        if self._array.offset is not None:
            with self._path.open("rb") as file:
                file.seek(self._array.offset + position)
                done = file.readinto(pixels)
        else:
            stream = self._stream()
            stream.seek(position)
            done = _read_fully(stream, pixels)
        if done != len(pixels):
            raise EOFError(f"{len(pixels) - done} bytes are missing")

    def _stream(self) -> IO[bytes]:
        if self._unpacking is None or self._unpacking[0] != os.getpid():
            self._unpacking = (os.getpid(), zipfile.ZipFile(self._path).open(self._array.member))  # noqa: SIM115
        return self._unpacking[1]

    def _integers(self, archive: zipfile.ZipFile, keys: list[str], key: str) -> tuple[Tensor | None, str]:
        """One integer per image under `key`, and a note; arr_1 is anybody's, so what it is not is no error."""
        if key not in keys:
            return None, ""
        array = _array(self._path, archive, key)
        if key == "arr_1" and (array.shape != (self.count,) or array.dtype.kind not in "iu"):
            return None, f"arr_1 ({array.dtype}, {array.shape}) is not read: no labels"
        if array.shape != (self.count,):
            raise UserError(f"{self._path}: {key} has shape {array.shape}, expected one integer for each of "
                            f"{self.count} images")  # fmt: skip
        note = "labels are those of arr_1" if key == "arr_1" else ""
        return integers(_whole(archive, array), self.count, f"{self._path}: {key}"), note


def _find_images(path: Path, archive: zipfile.ZipFile, keys: list[str]) -> _Array:
    if IMAGES_KEY not in keys:
        if {"mu", "sigma"} <= set(keys):
            raise UserError(f"{path} holds statistics (mu, sigma) and no images: it is a reference, use --reference")
        raise UserError(f"{path} has no {IMAGES_KEY} with the images; it has: {', '.join(keys) or 'no arrays'}")
    array = _array(path, archive, IMAGES_KEY)
    where = f"{path}: {IMAGES_KEY}"
    check_images(where, str(array.dtype), array.shape)
    if array.shape[3] != 3:
        raise UserError(f"{where} {array.shape} is channels first (NCHW); this file format has NHWC: transpose it")
    if array.fortran:
        raise UserError(f"{where} is in Fortran order: save numpy.ascontiguousarray of it")
    return array


def _array(path: Path, archive: zipfile.ZipFile, key: str) -> _Array:
    """Read the header of one array and see that its size is what the member really has. Raises UserError."""
    info = archive.getinfo(f"{key}.npy")
    if info.flag_bits & 1:
        raise UserError(f"{path}: {key} is encrypted")
    with archive.open(info) as stream:
        shape, fortran, dtype = _header(stream)
        start = stream.tell()
    if dtype.hasobject:
        raise UserError(f"{path}: {key} holds pickled objects, which are refused: they could run code")
    needed = start + prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or needed != info.file_size:
        raise UserError(
            f"{path}: {key} is damaged: {shape} {dtype} takes {needed} bytes, the file has {info.file_size} for it"
        )
    stored = info.compress_type == zipfile.ZIP_STORED
    return _Array(
        member=info.filename,
        dtype=dtype,
        shape=shape,
        fortran=fortran,
        start=start,
        offset=_member_offset(path, info) if stored else None,
    )


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether the order is Fortran's, and type, read without evaluating anything. ValueError for no header."""
    version = npy.read_magic(stream)
    # Version 3 differs from 2 only in allowing names of fields that are not Latin-1.
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    try:
        return read_header(stream)
    except (SyntaxError, tokenize.TokenError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f"its header cannot be parsed ({error})") from error


def _member_offset(path: Path, info: zipfile.ZipInfo) -> int:
    """Where the bytes of a stored member begin: behind its local header, whose length is written only there."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        signature, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    offset = info.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes
    inside = offset + info.file_size <= path.stat().st_size and info.compress_size == info.file_size
    if signature != b"PK\x03\x04" or not inside:
        raise UserError(f"{path} is damaged: {info.filename} is not where the archive says")
    return offset


def _whole(archive: zipfile.ZipFile, array: _Array) -> np.ndarray:
    """A small array."""
    with archive.open(array.member) as stream:
        stream.seek(array.start)
        return np.frombuffer(stream.read(), dtype=array.dtype)


def _provenance(path: Path, archive: zipfile.ZipFile, keys: list[str]) -> Provenance:
    if PROVENANCE_KEY not in keys:
        return Provenance()
    array, where = _array(path, archive, PROVENANCE_KEY), f"{path}: {PROVENANCE_KEY}"
    if array.dtype != np.uint8 or len(array.shape) != 1 or array.shape[0] > MAX_PROVENANCE_BYTES:
        raise UserError(f"{where} ({array.dtype}, {array.shape}) was not written by arvbench")
    return read_provenance(_whole(archive, array).tobytes(), where)


def _read_fully(stream: IO[bytes], into: memoryview) -> int:
    done = 0
    while done < len(into) and (piece := stream.read(len(into) - done)):
        into[done : done + len(piece)] = piece
        done += len(piece)
    return done


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what the archive and array formats raise into a UserError that names the file."""
    try:
        yield
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        NotImplementedError,
        zlib.error,
        zipfile.BadZipFile,
        struct.error,
    ) as error:
        raise UserError(
            f"{path} is no readable .npz, or it is truncated or damaged ({type(error).__name__}: {error})"
        ) from error
