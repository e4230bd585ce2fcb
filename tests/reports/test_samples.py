from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest
import records as make

from arvbench.reports.samples import SamplePicture, load_picture
from arvbench.results.schema import SampleSheet


def load(sheet: SampleSheet, folder: Path) -> SamplePicture:
    return load_picture(sheet, folder=folder, case="case", marks=())


def test_a_picture_beside_the_records_is_put_into_the_page_unchanged(tmp_path: Path) -> None:
    picture = load(make.sample_sheet(tmp_path), tmp_path)
    head, _, data = picture.data_uri.partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(data) == (tmp_path / "samples/var.png").read_bytes()


def test_a_picture_that_was_changed_is_not_shown(tmp_path: Path) -> None:
    sheet = make.sample_sheet(tmp_path)
    path = tmp_path / sheet.path
    path.write_bytes(path.read_bytes() + b"x")
    picture = load(sheet, tmp_path)
    assert picture.data_uri is None and "sha256 differs" in picture.problem


def test_a_missing_picture_is_reported(tmp_path: Path) -> None:
    sheet = make.sample_sheet(tmp_path)
    (tmp_path / sheet.path).unlink()
    picture = load(sheet, tmp_path)
    assert picture.data_uri is None and "samples/var.png is not beside the records" in picture.problem


@pytest.mark.parametrize("how", ["dots", "absolute", "link"])
def test_a_path_that_leaves_the_folder_is_not_read(tmp_path: Path, how: str) -> None:
    run = tmp_path / "run"
    run.mkdir()
    sheet = make.sample_sheet(tmp_path, path="secret.png")
    if how == "link":
        (run / "link.png").symlink_to(tmp_path / "secret.png")
    path = {"dots": "../secret.png", "absolute": str(tmp_path / "secret.png"), "link": "link.png"}[how]
    picture = load(sheet.model_copy(update={"path": path}), run)
    assert picture.data_uri is None and "outside the folder" in picture.problem


@pytest.mark.parametrize("path", ["bad\x00name.png", "x" * 5000, "."])
def test_an_invalid_path_is_reported(tmp_path: Path, path: str) -> None:
    sheet = make.sample_sheet(tmp_path).model_copy(update={"path": path})
    assert load(sheet, tmp_path).data_uri is None


def test_only_a_png_is_shown(tmp_path: Path) -> None:
    content = b"<svg onload=alert(1)>"
    (tmp_path / "fake.png").write_bytes(content)
    sheet = make.sample_sheet(tmp_path).model_copy(
        update={"path": "fake.png", "sha256": hashlib.sha256(content).hexdigest()}
    )
    assert "not a PNG" in load(sheet, tmp_path).problem
