"""Samples as pictures: their order, their classes, and files that need the user's decision."""

from __future__ import annotations

import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from arvbench.errors import UserError
from arvbench.harness.data.digits import load_digits_rgb
from arvbench.harness.quality.images.folder import FolderSource, read_image
from arvbench.harness.quality.images.open import open_images


def pixels(number: int, height: int = 6, width: int = 5) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write(path: Path, number: int = 0, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(number)).save(path, **options)
    return path


def write_png(path: Path, *, depth: int, colour: int, rows: list[bytes], chunks: tuple[tuple[bytes, bytes], ...] = ()):
    """A PNG that Pillow would not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 4, len(rows), depth, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [chunk(b"IHDR", header), *(chunk(*c) for c in chunks), chunk(b"IDAT", body), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def tensor(number: int) -> torch.Tensor:
    return torch.from_numpy(pixels(number)).permute(2, 0, 1)


def test_images_come_in_the_text_order_of_relative_paths(tmp_path):
    names = ["b/1.png", "a/2.png", "a/10.PNG", "a.png", "c.jpeg", "a/sub/x.png"]
    order = ["a.png", "a/10.PNG", "a/2.png", "a/sub/x.png", "b/1.png", "c.jpeg"]
    for number, name in enumerate(names):
        write(tmp_path / name, number)
    (tmp_path / "notes.txt").write_text("no picture")
    source = FolderSource(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in source.paths] == order
    assert (source.count, source.shape, source.name) == (6, (6, 5), tmp_path.name)
    for place, name in enumerate(order[:-1]):
        assert torch.equal(source.read(place, place + 1)[0], tensor(names.index(name)))
    assert torch.equal(source.read(1, 4), torch.stack([tensor(2), tensor(1), tensor(5)]))
    assert source.read(2, 2).shape == (0, 3, 6, 5)


def test_files_are_named_in_the_order_in_which_they_are_read(tmp_path):
    for number in range(11):
        write(tmp_path / f"{number}.png", number)
    source = FolderSource(tmp_path)
    assert source.files[:4] == ["0.png", "1.png", "10.png", "2.png"]
    assert torch.equal(source.read(2, 3)[0], tensor(10))


def test_many_images_are_read_in_parallel_and_in_order(tmp_path):
    images = load_digits_rgb().images_N3HW[:70]
    for number, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{number:02d}.png")
    assert torch.equal(FolderSource(tmp_path).read(0, 70), images)


def test_links_are_followed_once(tmp_path):
    write(tmp_path / "far" / "x.png", 1)
    write(tmp_path / "near" / "y.png", 2)
    (tmp_path / "near" / "z").symlink_to(tmp_path / "far")
    (tmp_path / "near" / "loop").symlink_to(tmp_path / "near")
    assert [path.name for path in FolderSource(tmp_path / "near").paths] == ["y.png", "x.png"]


@pytest.mark.parametrize(
    ("folders", "labels"),
    [
        (["n02105412", "n01440764", "n03445777"], {"n01440764": 0, "n02105412": 1, "n03445777": 2}),
        (["0", "1", "10", "2"], {"0": 0, "1": 1, "2": 2, "10": 10}),
        (["007", "012"], {"007": 7, "012": 12}),
        (["1", "01"], {"01": 0, "1": 1}),
        (["7", "x"], {"7": 0, "x": 1}),
    ],
)
def test_classes_follow_from_subfolders(tmp_path, folders, labels):
    for folder in folders:
        for number in range(2):
            write(tmp_path / folder / f"{folder}_{7 - number}.png", number)
    source = FolderSource(tmp_path)
    expected = [labels[path.parent.name] for path in source.paths]
    assert source.labels_N.tolist() == expected and source.labels_N.dtype == torch.int64
    assert f"of {len(folders)} subfolders" in source.provenance.note


@pytest.mark.parametrize("names", [["a.png", "b/0.png"], ["only/0.png", "only/1.png"], ["a/b/0.png", "a/c/1.png"]])
def test_other_folders_say_nothing_about_classes(tmp_path, names):
    for name in names:
        write(tmp_path / name)
    assert FolderSource(tmp_path).labels_N is None


def index(tmp_path: Path, **content) -> None:
    default = {"format": 1, "provenance": {"labels": "uniform"}, "files": ["0.png", "1.png"]}
    (tmp_path / "samples.json").write_text(json.dumps(default | content))


def test_samples_json_says_labels_seeds_and_provenance(tmp_path):
    for number in range(2):
        write(tmp_path / f"{number}.png", number)
    index(tmp_path, labels=[5, 3], seeds=[0, 1])
    source = FolderSource(tmp_path)
    assert (source.labels_N.tolist(), source.seeds_N.tolist()) == ([5, 3], [0, 1])
    assert source.provenance.labels == "uniform"
    index(tmp_path)
    assert FolderSource(tmp_path).labels_N is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"labels": [1]}, r"labels must be 2 integers"),
        ({"labels": [1.5, 2]}, r"labels must be 2 integers"),
        ({"labels": [[1], [2, 3]]}, r"labels must be 2 integers"),
        ({"seeds": [1, 2**70]}, r"seeds must be 2 integers"),
        ({"files": ["0.png"]}, r"lists 1 images, the folder holds 2"),
        ({"files": ["0.png", "2.png"]}, r"lists 2 images, the folder holds 2, and their names differ"),
        ({"files": None}, r"lists no images"),
        ({"format": 7}, r"format 7"),
        ({"provenance": None}, r"not written by arvbench"),
    ],
)
def test_a_samples_json_that_does_not_fit_is_refused(tmp_path, content, message):
    for number in range(2):
        write(tmp_path / f"{number}.png", number)
    index(tmp_path, **content)
    with pytest.raises(UserError, match=rf"samples\.json.*{message}"):
        FolderSource(tmp_path)
    (tmp_path / "samples.json").write_text("{")
    with pytest.raises(UserError, match=r"cannot read .*samples\.json"):
        FolderSource(tmp_path)


def test_the_key_changes_with_every_file(tmp_path):
    path = write(tmp_path / "0.png", 0)
    write(tmp_path / "1.png", 1)
    keys = [FolderSource(tmp_path).key]
    assert FolderSource(tmp_path).key == keys[0]
    os.utime(path, ns=(0, 0))
    keys.append(FolderSource(tmp_path).key)
    path.rename(tmp_path / "2.png")
    keys.append(FolderSource(tmp_path).key)
    write(tmp_path / "3.png")
    keys.append(FolderSource(tmp_path).key)
    assert len(set(keys)) == 4


def test_jpeg_is_read(tmp_path):
    write(tmp_path / "0.png")
    for quality, name in ((95, "1.jpg"), (95, "2.JPEG")):
        write(tmp_path / name, quality=quality)
    source = FolderSource(tmp_path)
    assert source.files == ["0.png", "1.jpg", "2.JPEG"]
    assert (source.read(1, 2)[0].int() - tensor(0)).abs().float().mean() < 40


def test_pictures_of_other_formats_are_not_silently_left_out(tmp_path):
    write(tmp_path / "0.png")
    write(tmp_path / "1.webp")
    write(tmp_path / "2.BMP")
    source = FolderSource(tmp_path)
    assert source.count == 1
    assert source.provenance.note.startswith("2 files are not read") and "1 .bmp" in source.provenance.note


@pytest.mark.parametrize(
    ("mode", "what"),
    [
        ("L", "grayscale"),
        ("1", "grayscale"),
        ("LA", "transparency"),
        ("RGBA", "transparency"),
        ("P", "a palette"),
        ("CMYK", "ink"),
    ],
)
def test_colours_that_need_a_decision_are_refused(tmp_path, mode, what):
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    Image.new(mode, (4, 4)).save(path)
    with pytest.raises(UserError, match=rf"x\.(png|jpg) has {what}.*colour mode {mode}\): convert it to 8-bit RGB"):
        read_image(path)


def test_sixteen_bits_are_refused_before_they_are_cut_to_eight(tmp_path):
    grey = tmp_path / "grey.png"
    Image.fromarray(np.full((4, 4), 300, np.uint16)).save(grey)
    colour = write_png(tmp_path / "colour.png", depth=16, colour=2, rows=[bytes(range(24))] * 4)
    with Image.open(colour) as opened:
        assert opened.mode == "RGB"  # so the mode says nothing
    for path in (grey, colour):
        with pytest.raises(UserError, match=rf"{path.name} has 16 bits per channel"):
            read_image(path)


def test_a_transparent_colour_is_refused(tmp_path):
    rows = [bytes(range(12))] * 4
    plain = write_png(tmp_path / "plain.png", depth=8, colour=2, rows=rows)
    assert read_image(plain).shape == (3, 4, 4)
    keyed = write_png(tmp_path / "keyed.png", depth=8, colour=2, rows=rows, chunks=((b"tRNS", bytes(6)),))
    with pytest.raises(UserError, match=r"keyed\.png has transparency"):
        read_image(keyed)


def test_an_animation_is_refused(tmp_path):
    frames = [Image.fromarray(pixels(number)) for number in range(3)]
    frames[0].save(tmp_path / "x.png", save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match=r"x\.png holds 3 pictures"):
        read_image(tmp_path / "x.png")


def test_a_name_that_says_another_format_is_refused(tmp_path):
    write(tmp_path / "x.png", format="JPEG")
    with pytest.raises(UserError, match=r"x\.png is a JPEG by its content"):
        read_image(tmp_path / "x.png")
    for form in ("WEBP", "TIFF", "BMP"):
        write(tmp_path / "y.png", format=form)
        with pytest.raises(UserError, match=r"y\.png is not a readable image"):
            read_image(tmp_path / "y.png")


def test_mixed_sizes_name_both_images(tmp_path):
    write(tmp_path / "0.png")
    Image.fromarray(pixels(1, 7, 9)).save(tmp_path / "1.png")
    source = FolderSource(tmp_path)
    with pytest.raises(UserError, match=r"0\.png is 5 x 6, .*1\.png is 9 x 7; resize them first"):
        source.read(0, 2)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_file_cut_anywhere_is_named_or_complete(tmp_path, suffix):
    whole = write(tmp_path / f"whole.{suffix}")
    expected, content = read_image(whole), whole.read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    refused = 0
    for length in range(len(content)):
        cut.write_bytes(content[:length])
        try:
            assert torch.equal(read_image(cut), expected)
        except UserError as error:
            assert f"cut.{suffix} is not a readable image" in str(error)
            refused += 1
    # Only checksums and the end marker may be missing: the pixels are all there then.
    assert refused >= len(content) - 24


def test_a_folder_that_has_no_images_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(UserError, match=r"no images \(\.png, \.jpg, \.jpeg\) in folder"):
        open_images(tmp_path)
    (tmp_path / "x.png").mkdir()
    with pytest.raises(UserError, match="no images"):
        open_images(tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        FolderSource(tmp_path / "notes.txt")


def test_an_image_that_goes_away_is_named(tmp_path):
    write(tmp_path / "0.png")
    write(tmp_path / "1.png").chmod(0o644)
    source = FolderSource(tmp_path)
    (tmp_path / "1.png").unlink()
    with pytest.raises(UserError, match=r"cannot read .*1\.png: No such file"):
        source.read(0, 2)


def test_text_in_a_picture_is_accepted(tmp_path):
    facts = PngImagePlugin.PngInfo()
    facts.add_text("prompt", "a cat")
    write(tmp_path / "0.png", 3, pnginfo=facts)
    assert torch.equal(read_image(tmp_path / "0.png"), tensor(3))


def noise_jpeg(path: Path, **options) -> bytes:
    Image.fromarray(pixels(3, 40, 56)).save(path, "JPEG", **options)
    return path.read_bytes()


def last_scan_cut(content: bytes, left_out: int = 40) -> bytes:
    return content[: -2 - left_out] + content[-2:]


def one_byte_changed(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 0x10]) + content[position + 1 :]


def png_of_rows(path: Path, rows: int, stated: int = 9) -> bytes:
    data = [bytes(range(12))] * rows
    whole = write_png(path, depth=8, colour=2, rows=data).read_bytes()
    header = b"IHDR" + struct.pack(">II", 4, stated) + whole[24:29]
    return whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:]


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        ("x.png", lambda path: png_of_rows(path, 8), "rows are incomplete"),
        ("x.png", lambda path: png_of_rows(path, 0), "truncated"),
        ("x.png", lambda path: png_of_rows(path, 9)[:-12], "truncated"),
        ("x.png", lambda path: png_of_rows(path, 9)[:-3], "truncated"),
        ("x.png", lambda path: one_byte_changed(png_of_rows(path, 9), -14), "is wrong"),
        ("x.jpg", lambda path: last_scan_cut(noise_jpeg(path)), "rows are incomplete"),
        ("x.jpg", lambda path: last_scan_cut(noise_jpeg(path), 400), "rows are incomplete"),
        ("x.jpeg", lambda path: last_scan_cut(noise_jpeg(path, progressive=True)), "rows are incomplete"),
        ("x.jpg", lambda path: noise_jpeg(path)[:-2], "truncated"),
        ("x.jpg", lambda path: noise_jpeg(path)[:-300], "truncated"),
    ],
)
def test_a_picture_with_missing_or_changed_bytes_is_refused(tmp_path, name, damage, reason):
    path = tmp_path / name
    path.write_bytes(damage(path))
    with pytest.raises(UserError, match=reason) as error:
        read_image(path)
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize(
    "options",
    [{}, {"quality": 100}, {"quality": 3}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}],
)
@pytest.mark.parametrize("size", [(1, 1), (7, 9), (40, 56)])
def test_whole_jpegs_are_read(tmp_path, options, size):
    Image.fromarray(pixels(1, *size)).save(tmp_path / "x.jpg", **options)
    with Image.open(tmp_path / "x.jpg") as image:
        expected = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    assert torch.equal(read_image(tmp_path / "x.jpg"), expected)
    with (tmp_path / "x.jpg").open("ab") as file:
        file.write(b"\xff\xd9 what a camera appends")
    assert torch.equal(read_image(tmp_path / "x.jpg"), expected)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (9, 5)])
def test_interlaced_pngs_are_read_and_must_be_whole(tmp_path, size):
    """Pillow writes none: seven passes of black rows, by the table of the specification."""
    height, width = size
    starts = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    parts = [(len(range(x, width, across)), len(range(y, height, down))) for x, y, across, down in starts]
    data = b"".join(bytes(1 + 3 * columns) * rows for columns, rows in parts if columns)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    def png(body: bytes) -> bytes:
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1))
        return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")

    path = tmp_path / "x.png"
    path.write_bytes(png(data))
    assert read_image(path).shape == (3, height, width)
    path.write_bytes(png(data[:-1]))
    with pytest.raises(UserError, match=r"rows are incomplete|truncated"):
        read_image(path)
