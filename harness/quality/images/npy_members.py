"""Arrays of an untrusted .npz: the header is checked before any data is read.

The header is parsed without evaluating anything, and compared with the size of its member. A reader checks shape and
type, then allocates only their size: of a small file that unpacks to gigabytes, only the header is unpacked.

Source   layout of .npy: numpy.lib.format; of .zip: APPNOTE 4.3 (PKWARE); of deflate: RFC 1951
"""

from __future__ import annotations

import io
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
from numpy.lib import format as npy

from arvbench.errors import UserError, shown

_LOCAL_HEADER = struct.Struct("<4s22xHH")
"""Signature, length of the name, length of the extra field (ZIP specification, 4.3.7)."""
_HEADER_BYTES = 2**14
"""Above numpy's limit for a header (10,000 characters), far below the size that a header can claim (4 GiB)."""
_EXPANSION = 1032
"""Most bytes that one byte of deflate unpacks to: 258 for two bits (RFC 1951, 3.2.5)."""
_AT_ONCE = 2**24
"""Bytes to unpack at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayMember:
    """Type, shape and position of one array."""

    name: str
    """Name of the member in the archive."""
    dtype: np.dtype
    shape: tuple[int, ...]
    fortran: bool
    start: int
    """Bytes of the .npy header."""
    offset: int | None
    """Position of the member in the file; None when it is compressed."""


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn errors of the archive and array formats into a UserError that names the file."""
    try:
        yield
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        OverflowError,
        NotImplementedError,
        zlib.error,
        zipfile.BadZipFile,
        struct.error,
    ) as error:
        raise UserError(
            f"{path} is not a readable .npz, or it is truncated or damaged ({type(error).__name__}: {error})"
        ) from error


def array_keys(archive: zipfile.ZipFile) -> list[str]:
    """Return the names of all arrays. Raises UserError for a name that stands twice: readers take either."""
    names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{archive.filename} is damaged: it holds {shown(twice)} twice")
    return names


def find_array(path: Path, archive: zipfile.ZipFile, key: str) -> ArrayMember:
    """Read the header of one array, and check its size against that of the member.

    Call it, and `read_array`, inside `readable`. Raises UserError for pickled objects, an encrypted member, a
    compression that numpy does not write, and sizes that do not fit.
    """
    info = archive.getinfo(f"{key}.npy")
    _check_packing(path, key, info)
    with archive.open(info) as stream:
        head = io.BytesIO(stream.read(_HEADER_BYTES))
    shape, fortran, dtype = _header(head)
    if dtype.hasobject:
        raise UserError(f"{path}: {key} holds pickled objects, which are refused: they could run code")
    needed = head.tell() + prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or needed != info.file_size:
        raise UserError(
            f"{path}: {key} is damaged: {shape} {dtype} takes {needed} bytes, the file has {info.file_size} for it"
        )
    return ArrayMember(
        name=info.filename,
        dtype=dtype,
        shape=shape,
        fortran=fortran,
        start=head.tell(),
        offset=_member_offset(path, info) if info.compress_type == zipfile.ZIP_STORED else None,
    )


def read_array(archive: zipfile.ZipFile, member: ArrayMember) -> np.ndarray:
    """Read an array whose shape and type the caller has checked. Raises EOFError or BadZipFile for a damaged one."""
    flat: np.ndarray = np.empty(prod(member.shape), dtype=member.dtype)
    with archive.open(member.name) as stream:
        stream.read(member.start)  # no seek: the checksum covers every byte
        missing = flat.nbytes - read_fully(stream, flat.view(np.uint8).data)
    if missing:
        raise EOFError(f"{missing} bytes of {member.name} are missing")
    return flat.reshape(member.shape, order="F" if member.fortran else "C")


def check_sum(path: Path, member: ArrayMember) -> None:
    """Compare a member's bytes with its checksum. Raises BadZipFile or zlib.error for a damaged one."""
    with zipfile.ZipFile(path) as archive, archive.open(member.name) as stream:
        while stream.read(_AT_ONCE):
            pass


def read_bytes(path: Path, archive: zipfile.ZipFile, key: str, *, at_most: int) -> bytes:
    """Read an array of our own: one-dimensional uint8. Raises UserError for any other and for more than `at_most`."""
    array = find_array(path, archive, key)
    if array.dtype != np.uint8 or len(array.shape) != 1 or array.shape[0] > at_most:
        raise UserError(f"{path}: {key} ({array.dtype}, {array.shape}) was not written by arvbench")
    return read_array(archive, array).tobytes()


def read_fully(stream: IO[bytes], into: memoryview) -> int:
    """Fill a buffer from the stream, a part at a time; return the number of bytes read."""
    done = 0
    while done < len(into) and (piece := stream.read(min(len(into) - done, _AT_ONCE))):
        into[done : done + len(piece)] = piece
        done += len(piece)
    return done


def _check_packing(path: Path, key: str, info: zipfile.ZipInfo) -> None:
    if info.flag_bits & 1:
        raise UserError(f"{path}: {key} is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(
            f"{path}: {key} is packed by method {info.compress_type}; numpy writes only stored and deflated arrays: "
            "save it again with numpy.savez or numpy.savez_compressed"
        )
    if info.file_size > _EXPANSION * info.compress_size:
        raise UserError(
            f"{path}: {key} is damaged: {info.compress_size} bytes cannot unpack to the {info.file_size} that it claims"
        )


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return (shape, Fortran order, type), parsed without evaluation. Raises ValueError for a damaged header."""
    version = npy.read_magic(stream)
    # Version 3 differs from 2 only in the encoding of field names.
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    try:
        return read_header(stream)
    except (
        SyntaxError,
        tokenize.TokenError,
        TypeError,
        AttributeError,
        LookupError,
        RecursionError,
        MemoryError,
    ) as error:
        raise ValueError(f"its header cannot be parsed ({error})") from error


def _member_offset(path: Path, info: zipfile.ZipInfo) -> int:
    """Return the position of a stored member's data, which follows its local header; only that states its length."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        signature, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    offset: int = info.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes
    inside = offset + info.file_size <= path.stat().st_size and info.compress_size == info.file_size
    if signature != b"PK\x03\x04" or not inside:
        raise UserError(f"{path} is damaged: {info.filename} is not where the archive says")
    return offset
