"""Folders of samples beside which other things lie: hidden names, links to nowhere, files that are no pictures."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from arvbench.errors import UserError
from arvbench.harness.quality.images.folder import FolderSource
from arvbench.harness.quality.images.open import open_images


def write(path: Path, number: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize(
    "name",
    [
        *(".ipynb_checkpoints/0-checkpoint.png", "cat/._0.png", ".DS_Store", "cat/Thumbs.db", "__MACOSX/cat/0.png"),
        *(".cache/deep/er/x.jpg", "dog/.thumbs/0.png", ".hidden.png", "cat/@eaDir/0.png/SYNOPHOTO.png", "desktop.ini"),
    ],
)
def test_hidden_names_are_neither_samples_nor_classes(tmp_path, name):
    for place in ("cat/0.png", "dog/0.png", "dog/1.png"):
        write(tmp_path / place)
    before = FolderSource(tmp_path)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"\0\5\x16\7 no picture")
    after = FolderSource(tmp_path)
    assert (after.files, after.key, after.provenance) == (before.files, before.key, before.provenance)
    assert before.labels_N is None or after.labels_N.tolist() == before.labels_N.tolist()


def test_a_folder_below_a_hidden_one_is_read_when_it_is_named(tmp_path):
    write(tmp_path / ".cache" / "samples" / "0.png")
    assert FolderSource(tmp_path / ".cache" / "samples").count == 1


@pytest.mark.parametrize("name", ["2.png", "a/3.jpg", "4", "b"])
def test_a_link_that_leads_nowhere_is_refused(tmp_path, name):
    for place in ("0.png", "a/1.png"):
        write(tmp_path / place)
    (tmp_path / name).symlink_to(tmp_path / "gone" / "x.png")
    with pytest.raises(UserError, match="is a link that leads nowhere") as error:
        open_images(tmp_path)
    assert str(error.value).startswith(str(tmp_path / name)) and "1 of 3 names" in str(error.value)


def test_a_link_to_a_text_that_is_gone_leaves_the_images_as_they_are(tmp_path):
    write(tmp_path / "0.png")
    (tmp_path / "latest.log").symlink_to("nowhere")
    assert (open_images(tmp_path).count, open_images(tmp_path).provenance.note) == (1, "")


def test_the_first_of_several_links_is_named(tmp_path):
    write(tmp_path / "0.png")
    for number in (7, 5, 6):
        (tmp_path / f"{number}.png").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"5\.png is a link that leads nowhere \(so are 3 of 4 names"):
        open_images(tmp_path)


@pytest.mark.parametrize(
    ("names", "note"),
    [
        (["x.webp"], "1 file is not read, only names in .png, .jpg and .jpeg are (1 .webp): x.webp"),
        (["b", "a/00017"], "2 files are not read, only names in .png, .jpg and .jpeg are (2 no ending): a/00017"),
        (
            ["x.JFIF", "y.jfif", "z.npy"],
            "3 files are not read, only names in .png, .jpg and .jpeg are (2 .jfif, 1 .npy): x.JFIF",
        ),
        (["x.png.part"], "1 file is not read, only names in .png, .jpg and .jpeg are (1 .part): x.png.part"),
        (["a/b/x.gif"], "1 file is not read, only names in .png, .jpg and .jpeg are (1 .gif): a/b/x.gif"),
        (["log.txt", "metrics.csv", "a/README.md"], ""),
        (["p; q.tif"], "1 file is not read, only names in .png, .jpg and .jpeg are (1 .tif): p, q.tif"),
    ],
)
def test_what_is_passed_over_is_counted(tmp_path, names, note):
    write(tmp_path / "0.png")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    source = FolderSource(tmp_path)
    assert (source.count, source.provenance.note) == (1, note)


def test_a_folder_without_pictures_says_what_it_holds(tmp_path):
    (tmp_path / "0.webp").write_bytes(b"x")
    with pytest.raises(UserError, match=r"no images .* 1 file is not read"):
        open_images(tmp_path)


def test_pipes_are_not_opened(tmp_path):
    write(tmp_path / "0.png")
    os.mkfifo(tmp_path / "commands")
    assert "1 no ending" in FolderSource(tmp_path).provenance.note
    os.mkfifo(tmp_path / "1.png")
    with pytest.raises(UserError, match=r"1\.png is a pipe"):
        open_images(tmp_path)


def test_a_picture_that_changes_after_the_listing_is_refused(tmp_path):
    for number in range(3):
        write(tmp_path / f"{number}.png", number)
    source = FolderSource(tmp_path)
    source.read(0, 3)
    write(tmp_path / "new.png", 9).replace(tmp_path / "1.png")
    source.read(0, 1)
    with pytest.raises(UserError, match=r"1\.png has changed since the folder was listed"):
        source.read(0, 3)
