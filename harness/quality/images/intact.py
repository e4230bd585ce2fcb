"""Checks of a picture file's bytes that Pillow does not make: rows that are missing, checksums that differ.

Source   PNG: W3C PNG 3, 5.3 (chunks), 8 (interlacing). JPEG: ITU-T T.81, B.1.1 (markers)
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Passes of an interlaced PNG: first column and row, steps between columns and rows."""
_NEXT_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)
"""A marker that ends a scan: in its data, 0xff is followed by 0x00 or is a restart marker."""
_END_OF_IMAGE = 0xD9
_FILLING = b"\x5a\xa7\x31\xc6" * 256


def check_intact(content: bytes, kind: str, pixels_HW3: np.ndarray) -> None:
    """Raise ValueError when a PNG or JPEG, decoded to `pixels_HW3`, holds less than it states."""
    if kind == "PNG":
        _check_png(content, *pixels_HW3.shape[:2])
    elif kind == "JPEG":
        _check_jpeg(content, pixels_HW3)


def _check_png(content: bytes, height: int, width: int) -> None:
    interlaced, data = False, []
    for kind, body in _chunks(content):
        if kind == b"IHDR":
            interlaced = body[12:13] == b"\1"
        elif kind == b"IDAT":
            data.append(body)
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    needed = 0
    for column, row, across, down in passes:
        columns, rows = -((column - width) // across), -((row - height) // down)
        needed += rows * (1 + 3 * columns) if columns > 0 and rows > 0 else 0
    found = len(zlib.decompressobj().decompress(b"".join(data), needed + 1))  # one more: the stream's checksum follows
    if found < needed:
        raise ValueError(f"its rows are incomplete: {found} bytes of {needed}")


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield type and content of the chunks of a PNG up to its end. Raises ValueError for a damaged or missing one."""
    position = len(_PNG_SIGNATURE)
    while True:
        if position + 12 > len(content):
            raise ValueError("it ends before its IEND chunk: the file is truncated")
        size, kind = struct.unpack_from(">I4s", content, position)
        end = position + 12 + size
        name = kind.decode("ascii", "backslashreplace")
        if end > len(content):
            raise ValueError(f"it ends within chunk {name!r}: the file is truncated")
        if zlib.crc32(content[position + 4 : end - 4]) != int.from_bytes(content[end - 4 : end]):
            raise ValueError(f"the checksum of chunk {name!r} at byte {position} is wrong: the file is damaged")
        yield kind, content[position + 8 : end - 4]
        if kind == b"IEND":
            return
        position = end


def _check_jpeg(content: bytes, pixels_HW3: np.ndarray) -> None:
    """Decode once more with filling behind the last scan.

    A JPEG has no checksum, and the decoder fills rows that are missing with grey. It never reads behind a scan that is
    complete; in one that is not, it takes the filling for data, and other pixels come out.
    """
    end = _end_of_image(content)
    with Image.open(io.BytesIO(content[:end] + _FILLING + content[end:]), formats=("JPEG",)) as image:
        same = np.array_equal(np.asarray(image), pixels_HW3)
    if not same:
        raise ValueError("its rows are incomplete: the last scan ends too soon")


def _end_of_image(content: bytes) -> int:
    """Return the position of a JPEG's last marker. Raises ValueError for a file without one."""
    position = 2
    while (marker := _NEXT_MARKER.search(content, position)) is not None:
        code, position = marker[1][0], marker.end()
        if code == _END_OF_IMAGE:
            return marker.start()
        if code != 1:  # TEM is the only other marker without a length
            position += int.from_bytes(content[position : position + 2])
    raise ValueError("it has no marker of its end: the file is truncated")
