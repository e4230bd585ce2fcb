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
_MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
"""A marker; in the data of a scan, 0xff is followed by 0x00."""
_START_OF_SCAN, _END_OF_IMAGE, _RESTART = 0xDA, 0xD9, 0xD0
_TEM = 0x01
"""The only other marker without a length."""
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
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
    stream = zlib.decompressobj()
    found = len(stream.decompress(b"".join(data), needed + 1))
    if found != needed:
        fault = "more than it states" if found > needed else "incomplete"
        raise ValueError(f"its rows are {fault}: {found} bytes of {needed}")
    stream.decompress(stream.unconsumed_tail)
    if not stream.eof:  # zlib compares the checksum at the end of the stream, and only there
        raise ValueError("its pixels end without their checksum: the file is truncated")


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
    """Decode once more with filling at the end of every entropy-coded segment.

    A JPEG has no checksum, and the decoder fills what is missing with grey, or with the coarser pixels of earlier
    scans. It never reads behind a segment that is complete; in one that is not, it takes the filling for data, and
    other pixels come out.
    """
    pieces, begin, scans = [], 0, _Scans()
    for position in _ends_of_segments(content, scans):
        pieces += [content[begin:position], _FILLING]
        begin = position
    scans.check_complete()
    filled = b"".join([*pieces, content[begin:]])
    with Image.open(io.BytesIO(filled), formats=("JPEG",)) as image:
        same = np.array_equal(np.asarray(image), pixels_HW3)
    if not same:
        raise ValueError("its rows are incomplete: a scan ends too soon")


class _Scans:
    """Coefficients that the scans of a progressive JPEG have brought, by component."""

    def __init__(self) -> None:
        self._precision: dict[int, list[int]] = {}
        """Component -> for each of the 64 coefficients, the bits that are still missing; 14 before its first scan."""

    def frame(self, code: int, body: bytes) -> None:
        """Read the header of a frame; only that of a progressive one lists components to complete."""
        if code in _PROGRESSIVE:
            self._precision = {body[6 + 3 * place]: [14] * 64 for place in range(body[5])}

    def scan(self, body: bytes) -> None:
        """Read the header of a scan."""
        first, last, low = body[-3], body[-2], body[-1] & 15
        for place in range(body[0]):
            missing = self._precision.get(body[1 + 2 * place])
            if missing is not None:
                missing[first : last + 1] = [low] * (last + 1 - first)

    def check_complete(self) -> None:
        """Raise ValueError when a coefficient of a component was not sent to its last bit."""
        if any(any(missing) for missing in self._precision.values()):
            raise ValueError("scans are missing: the file is truncated")


def _ends_of_segments(content: bytes, scans: _Scans) -> Iterator[int]:
    """Yield where entropy-coded segments end: at restart markers, and at the marker behind each scan.

    Raises ValueError for a file without an end marker. Tells `scans` the headers of frames and scans.
    """
    position, in_scan = 2, False
    while (marker := _MARKER.search(content, position)) is not None:
        code, position = marker[1][0], marker.end()
        if _RESTART <= code < _RESTART + 8:
            if in_scan:
                yield marker.start()
            continue
        if in_scan:
            yield marker.start()
        if code == _END_OF_IMAGE:
            return
        if code == _TEM:
            continue
        body = content[position + 2 : position + int.from_bytes(content[position : position + 2])]
        in_scan = code == _START_OF_SCAN
        if in_scan:
            scans.scan(body)
        elif code in _FRAMES:
            scans.frame(code, body)
        position += 2 + len(body)
    raise ValueError("it has no marker of its end: the file is truncated")
