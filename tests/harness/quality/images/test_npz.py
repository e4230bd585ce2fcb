"""Samples in .npz: any range is read without the rest; arrays other than a batch of RGB bytes are refused by name."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from arvbench.errors import UserError
from arvbench.harness.quality.images.npz import NpzSource
from arvbench.harness.quality.images.open import open_images


def pixels(count: int = 7, height: int = 5, width: int = 4) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def channels_first(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "samples.npz"


def raw_npz(path: Path, header: dict | bytes, body: bytes, *, name: str = "arr_0.npy", version: int = 1) -> Path:
    """Write a file with any .npy header, true or false."""
    text = header if isinstance(header, bytes) else repr(header).encode()
    size = struct.pack("<H" if version == 1 else "<I", len(text) + 1)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, b"\x93NUMPY" + bytes([version, 0]) + size + text + b"\n" + body)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_any_range_can_be_read_in_any_order(path, save):
    images = pixels(20)
    save(path, images)
    source = NpzSource(path)
    assert (source.count, source.shape, source.name) == (20, (5, 4), "samples.npz")
    for start, stop in [(0, 20), (3, 9), (9, 10), (2, 2), (0, 1), (19, 20), (0, 0), (4, 20)]:
        assert torch.equal(source.read(start, stop), channels_first(images[start:stop]))
    with pytest.raises(IndexError, match="which has 20"):
        source.read(18, 21)


def test_a_range_of_a_large_file_is_read_without_the_rest(path):
    """Counted in bytes that come from the file, after its checksum was compared once."""
    images = pixels(64, 32, 32)
    np.savez(path, images)
    read_bytes = []

    class CountedFile(io.FileIO):
        def readinto(self, buffer):
            read_bytes.append(super().readinto(buffer))
            return read_bytes[-1]

    class CountedPath(type(path)):
        def open(self, mode="r", **options):
            return CountedFile(self, mode)

    source = NpzSource(CountedPath(path))
    source.read(0, 1)
    read_bytes.clear()
    assert torch.equal(source.read(60, 62), channels_first(images[60:62]))
    assert read_bytes == [2 * 32 * 32 * 3]


def test_headers_of_all_versions_are_read(tmp_path):
    images = pixels()
    header = {"descr": "|u1", "fortran_order": False, "shape": images.shape}
    for version in (1, 2, 3):
        source = NpzSource(raw_npz(tmp_path / f"{version}.npz", header, images.tobytes(), version=version))
        assert torch.equal(source.read(0, 7), channels_first(images))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_forked_process_and_a_pickled_copy_read_the_same(path, save):
    images = pixels(40)
    save(path, images)
    source = NpzSource(path)
    source.read(0, 5)
    child = os.fork()
    if child == 0:  # reads on while the parent does; a shared position would mix them up
        good = all(torch.equal(source.read(i, i + 1), channels_first(images[i : i + 1])) for i in range(40))
        good &= source._unpacking is None or source._unpacking[0] == os.getpid()
        os._exit(0 if good else 1)
    for i in range(40):
        assert torch.equal(source.read(i, i + 1), channels_first(images[i : i + 1]))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert torch.equal(pickle.loads(pickle.dumps(source)).read(5, 9), channels_first(images[5:9]))


def test_labels_seeds_and_provenance(path):
    stated = {"format": 1, "provenance": {"labels": "balanced", "uint8_rule": "round"}}
    np.savez(
        path,
        arr_0=pixels(),
        labels=np.arange(7, dtype=np.int32),
        arr_1=np.zeros(7, dtype=np.int64),
        seeds=np.arange(7, dtype=">u4") + 10,
        arvbench=np.frombuffer(json.dumps(stated).encode(), dtype=np.uint8),
    )
    source = NpzSource(path)
    assert source.labels_N.tolist() == list(range(7)) and source.labels_N.dtype == torch.int64
    assert source.seeds_N.tolist() == list(range(10, 17))
    assert (source.provenance.labels, source.provenance.uint8_rule) == ("balanced", "round")
    assert source.provenance.note == ""


def test_the_second_array_of_adm_samples_becomes_labels_only_when_it_fits(path):
    np.savez(path, pixels(), np.array([0, 1, 2, 3, 4, 5, 5]))
    source = NpzSource(path)
    assert source.labels_N.tolist() == [0, 1, 2, 3, 4, 5, 5] and "labels are those of arr_1" in source.provenance.note
    for other in (np.zeros(7), np.arange(7), np.arange(8), np.zeros((7, 2), dtype=np.int64)):
        np.savez(path, pixels(), other)
        source = NpzSource(path)
        assert source.labels_N is None and "arr_1" in source.provenance.note
    np.savez(path, pixels())
    assert NpzSource(path).labels_N is None and NpzSource(path).seeds_N is None
    assert NpzSource(path).provenance.labels == "unknown"


@pytest.mark.parametrize("labels", [np.arange(6), np.zeros(7), np.zeros((7, 1), dtype=int), np.array([2**63] * 7)])
def test_labels_that_are_not_one_integer_per_image_are_refused(path, labels):
    np.savez(path, arr_0=pixels(), labels=labels)
    with pytest.raises(UserError, match=r"samples\.npz: labels (has shape|must be|holds)"):
        NpzSource(path)


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[1]", "not written by arvbench"),
        (b'{"format": 2, "provenance": {}}', "format 2"),
        (b'{"format": 1, "provenance": {"lables": "x"}}', "'lables' is not a text field"),
        (b'{"format": 1, "provenance": {"labels": 3}}', "'labels' is not a text field"),
        (b" " * (2**20 + 1), "not written by arvbench"),
    ],
)
def test_an_invalid_provenance_is_refused(path, stated, message):
    np.savez(path, arr_0=pixels(), arvbench=np.frombuffer(stated, dtype=np.uint8))
    with pytest.raises(UserError, match=rf"samples\.npz: arvbench.*{re.escape(message)}"):
        NpzSource(path)


def test_an_official_reference_with_images_says_that_it_is_one(path):
    np.savez(path, arr_0=pixels(), mu=np.zeros(4), sigma=np.eye(4))
    assert "reference statistics" in NpzSource(path).provenance.note


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (pixels().astype(np.float32) / 255, "is float32; quality is measured on uint8 images.*truncate.*round.*127"),
        (pixels().astype(np.int64), "is int64; quality is measured on uint8"),
        (pixels()[..., 0], "is grayscale"),
        (pixels()[..., :1], "is grayscale"),
        (pixels()[..., :1].transpose(0, 3, 1, 2), "is grayscale"),
        (np.zeros((7, 5, 6, 4), np.uint8), "is RGBA"),
        (np.zeros((7, 4, 5, 6), np.uint8), "is RGBA"),
        (pixels().transpose(0, 3, 1, 2).copy(), r"channels first \(NCHW\)"),
        (pixels()[0], "is one image"),
        (pixels()[:0], "holds no images"),
        (np.zeros((7, 0, 4, 3), np.uint8), "holds empty images"),
        (np.zeros((7, 5, 6, 2), np.uint8), "no three channels"),
        (np.zeros(12, np.uint8), "has 1 dimensions"),
        (np.asfortranarray(pixels()), "Fortran order"),
    ],
)
def test_an_array_other_than_a_batch_of_rgb_bytes_is_named_and_refused(path, array, message):
    np.savez(path, array)
    with pytest.raises(UserError, match=rf"samples\.npz: arr_0.*{message}"):
        NpzSource(path)


class _Bomb:
    def __reduce__(self):
        return (os.abort, ())


@pytest.mark.parametrize("key", ["arr_0", "arr_1", "labels", "arvbench"])
def test_pickled_objects_are_refused_and_never_loaded(path, key):
    arrays = {"arr_0": pixels(1)} | {key: np.array([_Bomb()], dtype=object)}
    np.savez(path, **arrays)
    with pytest.raises(UserError, match=rf"samples\.npz: {key} holds pickled objects, which are refused"):
        NpzSource(path)


def test_a_statistics_file_is_not_taken_for_samples(path):
    np.savez(path, mu=np.zeros(4), sigma=np.eye(4))
    with pytest.raises(UserError, match="it is a reference, use --reference"):
        NpzSource(path)
    np.savez(path, images=pixels())
    with pytest.raises(UserError, match="no arr_0 with the images; it has: images"):
        NpzSource(path)


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.95, -1])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_truncated_file_is_named(path, save, keep):
    save(path, pixels(50))
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(len(content) * keep)])
    with pytest.raises(UserError, match=r"samples\.npz is not a readable \.npz, or it is truncated"):
        NpzSource(path).read(0, 50)


@pytest.mark.parametrize("shape", [(8, 5, 4, 3), (6, 5, 4, 3), (10**12, 5, 4, 3), (-7, -5, 4, 3), (2**62, 2**62, 4, 3)])
def test_a_header_that_contradicts_the_data_is_refused(path, shape):
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with pytest.raises(UserError, match=r"samples\.npz: arr_0 is damaged"):
        NpzSource(raw_npz(path, header, pixels().tobytes()))


@pytest.mark.parametrize(
    "header", [b"", b"{", b"__import__('os').abort()", b"{'descr': '|u1'}", b"{'descr': 'zz', 'fortran_order': False, "
               b"'shape': (1,)}", b" " * 20_000]
)  # fmt: skip
def test_an_invalid_header_is_refused(path, header):
    with pytest.raises(UserError, match=r"samples\.npz is not a readable \.npz"):
        NpzSource(raw_npz(path, header, b"x"))


def test_a_member_larger_than_the_file_is_refused(path):
    np.savez(path, pixels())
    content = bytearray(path.read_bytes())
    directory = content.rindex(b"PK\x01\x02")
    size = struct.unpack_from("<I", content, directory + 24)[0]
    struct.pack_into("<II", content, directory + 20, size + 3000, size + 3000)  # both sizes of the only member
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"samples\.npz"):
        NpzSource(path)


def test_damage_inside_a_compressed_member_is_found_when_it_is_read(path):
    np.savez_compressed(path, np.zeros((500, 8, 8, 3), np.uint8) + pixels(500, 8, 8) // 64)
    content = bytearray(path.read_bytes())
    for place in range(len(content) // 2, len(content) // 2 + 40):
        content[place] ^= 0xFF
    path.write_bytes(content)
    source = NpzSource(path)
    with pytest.raises(UserError, match=r"samples\.npz is not a readable \.npz, or it is truncated or damaged"):
        source.read(0, 500)


@pytest.mark.parametrize("count", [30, 600])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("place", [0.2, 0.5, 0.7])
def test_one_changed_byte_of_the_images_is_found_whatever_is_read_first(path, save, place, count):
    save(path, pixels(count, 8, 8))
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 4
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"samples\.npz is not a readable \.npz, or it is truncated or damaged"):
        NpzSource(path).read(0, 1)


def test_an_encrypted_archive_is_refused(path):
    np.savez(path, pixels())
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="is encrypted"):
        NpzSource(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_file_that_is_replaced_while_it_is_read_is_an_error(path, save):
    save(path, pixels(9))
    source = NpzSource(path)
    key = source.key
    save(path, pixels(8))
    with pytest.raises(UserError, match="has changed since it was opened"):
        source.read(0, 1)
    assert NpzSource(path).key != key
    path.unlink()
    with pytest.raises(UserError, match=r"cannot read .*samples\.npz"):
        source.read(0, 1)


def test_a_stored_file_that_shrinks_in_the_middle_of_a_read_is_an_error(path):
    shrinks = False

    class ShrinkingPath(type(path)):
        def open(self, *arguments, **options):
            if shrinks:
                os.truncate(self, 400)
            return super().open(*arguments, **options)

    np.savez(path, pixels(9))
    source = NpzSource(ShrinkingPath(path))
    shrinks = True
    with pytest.raises(UserError, match=r"samples\.npz is .*truncated or damaged .*bytes are missing"):
        source.read(0, 9)


def test_the_content_at_the_path_decides_the_reader(path, tmp_path):
    np.savez(path, pixels())
    assert isinstance(open_images(path), NpzSource) and isinstance(open_images(str(path)), NpzSource)
    (tmp_path / "samples.NPZ").write_bytes(path.read_bytes())
    assert isinstance(open_images(tmp_path / "samples.NPZ"), NpzSource)


def test_a_path_without_samples_is_refused_with_the_accepted_kinds(path, tmp_path):
    np.savez(path, pixels())
    with pytest.raises(
        UserError, match=r"nothing at .*sample\.npz \(did you mean samples\.npz\?\); samples are an \.npz"
    ):
        open_images(tmp_path / "sample.npz")
    with pytest.raises(UserError, match=r"no folder .*nowhere either"):
        open_images(tmp_path / "nowhere" / "samples.npz")
    for name in ("samples.npy", "samples.zip", "samples"):
        with (tmp_path / name).open("wb") as file:
            np.save(file, pixels())
        with pytest.raises(UserError, match=rf"{name} is not a file of samples that can be read; samples are an \.npz"):
            open_images(tmp_path / name)


def test_a_file_with_only_the_ending_is_refused(path):
    path.write_bytes(io.BytesIO(b"no archive").getvalue())
    with pytest.raises(UserError, match=r"samples\.npz is not a readable \.npz"):
        open_images(path)
