"""Readers of pictures, samples and statistics, given damaged bytes: a reading, or one UserError that names the file."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from arvbench.errors import UserError
from arvbench.harness.quality.images.folder import read_image
from arvbench.harness.quality.images.npz import NpzSource
from arvbench.harness.quality.images.tensors import SafetensorsSource
from arvbench.harness.quality.reference.statistics import StatisticsFile

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8)


def encoded(kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PICTURE).save(stream, kind, **options)
    return stream.getvalue()


def archive(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def tensors() -> bytes:
    from safetensors.torch import save

    return save({"images": torch.from_numpy(RNG.integers(0, 256, (3, 8, 9, 3), dtype=np.uint8))})


FEATURES = RNG.normal(size=(40, 16))
PNG, JPEG = encoded("PNG"), encoded("JPEG", quality=90)
WHOLE: dict[str, tuple[bytes, Callable[[Path], object]]] = {
    "a.png": (PNG, read_image),
    "a.jpg": (JPEG, read_image),
    "p.jpg": (encoded("JPEG", quality=90, progressive=True), read_image),
    "r.jpg": (encoded("JPEG", quality=90, restart_marker_blocks=1), read_image),
    "s.npz": (
        archive(arr_0=RNG.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8), labels=np.arange(3)),
        lambda path: NpzSource(path).read(0, 3),
    ),
    "s.safetensors": (tensors(), lambda path: SafetensorsSource(path).read(0, 3)),
    "r.npz": (
        archive(mu=FEATURES.mean(0), sigma=np.cov(FEATURES.T), mu_s=FEATURES.mean(0), sigma_s=np.cov(FEATURES.T)),
        StatisticsFile,
    ),
}


def read_or_refuse(path: Path, read: Callable[[Path], object]) -> bool:
    """Return whether `path` could be read. Anything but a result or one line that names the file fails the test."""
    try:
        read(path)
    except UserError as error:
        assert path.name in str(error) and "\n" not in str(error)
        return False
    return True


@pytest.mark.parametrize("name", WHOLE)
def test_whole_files_are_read(name: str, tmp_path: Path) -> None:
    content, read = WHOLE[name]
    (tmp_path / name).write_bytes(content)
    if name != "r.npz":
        assert read_or_refuse(tmp_path / name, read)


@pytest.mark.fuzz
@pytest.mark.parametrize("name", WHOLE)
@given(
    changes=st.lists(st.tuples(st.integers(0, 2**16), st.binary(max_size=6)), min_size=1, max_size=4),
    cut=st.integers(0, 2**14),
)
def test_damaged_files_are_read_or_refused(
    name: str, changes: list[tuple[int, bytes]], cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content, read = WHOLE[name]
    damaged = bytearray(content)
    for place, new in changes:
        damaged[place % len(damaged) : place % len(damaged) + len(new)] = new
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(damaged[: len(damaged) - cut % len(damaged)] if cut % 3 == 0 else damaged)
    read_or_refuse(path, read)


KINDS = st.sampled_from(
    b"iCCP tEXt zTXt iTXt pHYs gAMA cHRM sRGB tRNS PLTE eXIf acTL fcTL fdAT cICP abCd IHDR IDAT".split(),
)


@pytest.mark.fuzz
@given(chunks=st.lists(st.tuples(KINDS, st.binary(max_size=24)), min_size=1, max_size=4))
def test_any_chunks_of_a_png_are_read_or_refused(
    chunks: list[tuple[bytes, bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    head, rest = PNG[:33], PNG[33:]
    path = tmp_path_factory.getbasetemp() / "chunks.png"
    path.write_bytes(head + b"".join(chunk(kind, body) for kind, body in chunks) + rest)
    read_or_refuse(path, read_image)


def rows(count: int) -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in np.tile(PICTURE, (3, 1, 1))[:count])


def png_of(data: bytes, height: int = 48) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 64, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def progressive_scans(kept: int) -> bytes:
    """A progressive JPEG with only its first `kept` scans, and a proper end."""
    content = encoded("JPEG", quality=90, progressive=True)
    starts = [i for i in range(len(content) - 1) if content[i : i + 2] == b"\xff\xda"]
    end = content.rfind(b"\xff\xc4", starts[kept - 1], starts[kept])
    return content[: end if end > 0 else starts[kept]] + b"\xff\xd9"


def without_a_segment() -> bytes:
    """A JPEG with restart markers of which one segment is empty."""
    content = encoded("JPEG", quality=90, restart_marker_blocks=1)
    markers = [i for i in range(len(content) - 1) if content[i] == 0xFF and 0xD0 <= content[i + 1] <= 0xD7]
    return content[: markers[0] + 2] + content[markers[1] :]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("more_rows.png", png_of(zlib.compress(rows(60)))),
        ("fewer_rows.png", png_of(zlib.compress(rows(40)))),
        ("no_checksum.png", png_of(zlib.compress(rows(48))[:-4])),
        ("wrong_checksum.png", png_of(zlib.compress(rows(48))[:-1] + b"\x00")),
        ("empty_profile.png", PNG[:33] + chunk(b"iCCP", b"") + PNG[33:]),
        *((f"scans_{kept}.jpg", progressive_scans(kept)) for kept in (1, 3, 6)),
        ("segment.jpg", without_a_segment()),
        ("no_end.jpg", JPEG[:-2]),
    ],
)
def test_pictures_that_hold_less_or_more_than_they_state_are_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        read_image(tmp_path / name)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_that_holds_the_images_twice_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "twice.npz", "w") as stored:
        for value in (0, 1):
            stream = io.BytesIO()
            np.save(stream, np.full((3, 8, 8, 3), value, np.uint8))
            stored.writestr("arr_0.npy", stream.getvalue())
    with pytest.raises(UserError, match=r"twice\.npz.*'arr_0' twice"):
        NpzSource(tmp_path / "twice.npz")
