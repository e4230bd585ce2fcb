"""References that were made to do harm: headers that parse to nothing, and small files that unpack to gigabytes."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_adm import fake_adm

from arvbench.errors import UserError
from arvbench.harness.quality.extractors.extractor import Extractor
from arvbench.harness.quality.images.npz import NpzSource
from arvbench.harness.quality.reference import load_reference
from arvbench.harness.quality.reference.statistics import StatisticsFile

BOMB = np.zeros((1_500, 2_000), np.float32)
"""12 MB that deflate to 12 kB."""
LEAST_PEAK = BOMB.nbytes // 4
"""No reader that unpacks it stays under this; one that reads its header needs a few kilobytes."""
PIXELS = np.zeros((4, 32, 32, 3), np.uint8)


def npy_bytes(header: bytes, *, version: int = 1, body: bytes = b"x" * 64) -> bytes:
    """An array with any header."""
    size = struct.pack("<H" if version == 1 else "<I", len(header) + 1)
    return b"\x93NUMPY" + bytes([version, 0]) + size + header + b"\n" + body


def archive_of(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for key, content in members.items():
            archive.writestr(f"{key}.npy", content)
    return path


def clip_of(dims: int) -> Extractor:
    """An extractor whose only layer has `dims` dimensions."""
    return replace(fake_adm(name="clip"), layers={"pool": dims})


def array_bytes(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


HEADERS = [
    b"{'descr': (",  # TokenError
    b"{'descr': [('a', 'u1'",
    b"  {\n 'descr': 1\n}",
    b"if x:\n  1\n 2",  # IndentationError
    b"{'descr': '|u1', 'fortran_order': False, 'shape': (1,}",  # SyntaxError
    b"{[]: 1}",  # TypeError
    b"{'descr': ('|u1',), 'fortran_order': False, 'shape': (1,)}",
    b"{'descr': (), 'fortran_order': False, 'shape': (1,)}",
    b"{'descr': [()], 'fortran_order': False, 'shape': (1,)}",
    b"{'descr': [('a',)], 'fortran_order': False, 'shape': (1,)}",
    b"{'descr': {'a': 1}, 'fortran_order': False, 'shape': (1,)}",
    b"{'descr': None, 'fortran_order': False, 'shape': 1}",
    b"{'descr': '|u1', 'fortran_order': False, 'shape': (" + b"9" * 5000 + b",)}",
    b"{'descr': '|u1', 'fortran_order': False, 'shape': (" + b"9" * 4000 + b", " + b"9" * 4000 + b")}",
    b"(" * 5000,
    b"-" * 9000 + b"1",
    b"\xff\xfe\x00",
    b"",
]


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("header", HEADERS, ids=range(len(HEADERS)))
def test_an_invalid_header_ends_in_an_error_that_names_the_file(tmp_path, header, version):
    bad = npy_bytes(header, version=version)
    for key in ("mu", "arvbench"):
        path = archive_of(tmp_path / f"{key}.npz", {"mu": bad, "sigma": bad} | {key: bad})
        with pytest.raises(UserError, match=rf"{key}\.npz"):
            load_reference(str(path), [(fake_adm(), {"pool": "moments"})])
    path = archive_of(tmp_path / "samples.npz", {"arr_0": array_bytes(PIXELS), "labels": bad})
    with pytest.raises(UserError, match=r"samples\.npz"):
        NpzSource(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_packing_without_a_bound_is_refused(tmp_path, method):
    """4 kB of bzip2 may be gigabytes, and are unpacked at once."""
    members = {"mu": array_bytes(np.zeros(2048)), "sigma": array_bytes(np.zeros((2048, 2048), np.float32))}
    path = archive_of(tmp_path / "ref.npz", members, method)
    with pytest.raises(UserError, match=rf"ref\.npz: mu is packed by method {method}; .*numpy\.savez"):
        load_reference(str(path), [(fake_adm(), {"pool": "moments"})])


def test_an_encrypted_member_is_refused(tmp_path):
    path = archive_of(tmp_path / "ref.npz", {"mu": array_bytes(np.zeros(2048)), "sigma": array_bytes(np.eye(2048))})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"ref\.npz: mu is encrypted"):
        load_reference(str(path), [(fake_adm(), {"pool": "moments"})])


def test_a_size_that_no_packing_reaches_is_refused_before_it_is_allocated(tmp_path):
    """Petabytes of features by the header and by the archive, in a kilobyte."""
    shape = (4, 2**48)
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    claimed = len(npy_bytes(header, body=b"")) + 4 * shape[0] * shape[1]
    path = tmp_path / "ref.npz"
    archive_of(path, {"arr_0": array_bytes(PIXELS), "features/clip/pool": npy_bytes(header)})
    claim_size(path, claimed)
    huge = clip_of(shape[1])  # whatever the extractor asks for
    with pytest.raises(UserError, match=rf"features/clip/pool is damaged: \d+ bytes cannot unpack to the {claimed}"):
        StatisticsFile(path).features(huge, ["pool"], 4)


def claim_size(path: Path, size: int) -> None:
    """Let the archive's directory give its last member this size, in a ZIP64 field."""
    content = bytearray(path.read_bytes())
    entry, end = content.rindex(b"PK\x01\x02"), content.rindex(b"PK\x05\x06")
    name_bytes = struct.unpack_from("<H", content, entry + 28)[0]
    field = struct.pack("<HHQ", 1, 8, size)
    struct.pack_into("<I", content, entry + 24, 0xFFFFFFFF)
    struct.pack_into("<H", content, entry + 30, len(field))
    struct.pack_into("<I", content, end + 12, struct.unpack_from("<I", content, end + 12)[0] + len(field))
    place = entry + 46 + name_bytes
    path.write_bytes(content[:place] + field + content[place:])


def assert_small_peak(action, match: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=match):
            action()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < LEAST_PEAK, f"{peak:,} bytes were allocated"


@pytest.fixture(scope="module")
def bomb() -> bytes:
    return array_bytes(BOMB)


@pytest.mark.parametrize("key", ["mean", "cov"])
def test_statistics_of_another_shape_are_not_unpacked(tmp_path, bomb, key):
    members = {"mean": array_bytes(np.zeros(2048)), "cov": array_bytes(np.zeros((2, 2)))} | {key: bomb}
    path = archive_of(tmp_path / "ref.npz", {f"moments/clip/pool/{name}": value for name, value in members.items()})
    assert path.stat().st_size < 100_000
    extractor = fake_adm(name="clip")
    assert_small_peak(lambda: load_reference(str(path), [(extractor, {"pool": "moments"})]), rf"pool/{key} has shape")


def test_a_mean_is_not_unpacked_before_its_covariance_is_seen_to_fit(tmp_path):
    members = {"mean": array_bytes(BOMB.reshape(-1)), "cov": array_bytes(np.zeros((2, 2)))}
    path = archive_of(tmp_path / "ref.npz", {f"moments/clip/pool/{name}": value for name, value in members.items()})
    extractor = clip_of(BOMB.size)
    assert_small_peak(lambda: load_reference(str(path), [(extractor, {"pool": "moments"})]), "pool/cov has shape")


def test_features_of_another_shape_are_not_unpacked(tmp_path, bomb):
    eye = {"mean": np.zeros(64, np.float32), "cov": np.eye(64, dtype=np.float32)}
    members = {f"moments/clip/pool/{name}": array_bytes(value) for name, value in eye.items()}
    path = archive_of(tmp_path / "ref.npz", members | {"arr_0": array_bytes(PIXELS), "features/clip/pool": bomb})
    extractor = clip_of(64)
    assert_small_peak(
        lambda: load_reference(str(path), [(extractor, {"pool": "features"})]),
        r"features/clip/pool is float32 \(1500, 2000\), expected float32 \(4, 64\)",
    )


@pytest.mark.parametrize("key", ["labels", "seeds", "arr_1"])
@pytest.mark.parametrize("kind", ["shape", "type"])
def test_labels_and_seeds_of_another_shape_or_type_are_not_unpacked(tmp_path, key, kind):
    wrong = np.zeros(BOMB.nbytes // 8, np.int64) if kind == "shape" else np.zeros(4, f"V{BOMB.nbytes // 4}")
    path = archive_of(tmp_path / "x.npz", {"arr_0": array_bytes(PIXELS), key: array_bytes(wrong)})
    assert path.stat().st_size < 100_000

    def read() -> None:
        source = NpzSource(path)
        assert key == "arr_1" and source.labels_N is None
        raise UserError(source.provenance.note)

    assert_small_peak(read, "arr_1 .* is not read" if key == "arr_1" else rf"x\.npz: {key} must be 4 integers")


def test_a_header_of_gigabytes_is_not_unpacked(tmp_path):
    bad = npy_bytes(b" " * BOMB.nbytes, version=2)
    path = archive_of(tmp_path / "ref.npz", {"mu": bad, "sigma": bad})
    assert_small_peak(
        lambda: load_reference(str(path), [(fake_adm(), {"pool": "moments"})]), r"ref\.npz is not a readable \.npz"
    )
