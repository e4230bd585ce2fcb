"""A reference is the digits or a folder of images; what cannot be used is named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from arvbench.errors import ContractError, UserError
from arvbench.harness.digits import load_digits_rgb
from arvbench.harness.quality.extractors import BATCH, load_extractor
from arvbench.harness.quality.protocol import images_sha256
from arvbench.harness.quality.reference import ImageFolder, load_reference_set, read_image


@pytest.fixture(scope="module")
def extractor():
    return load_extractor("digits-cnn")


def write(path, image_3HW) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image_3HW.permute(1, 2, 0).numpy()).save(path)


@pytest.fixture
def folder(tmp_path):
    """Seventy digits, more than a batch, in two subfolders named against the order in which they are written."""
    images = load_digits_rgb().images_N3HW[:70]
    for index in range(35):
        write(tmp_path / "b" / f"{index:02d}.png", images[35 + index])
        write(tmp_path / "a" / f"{index:02d}.PNG", images[index])
    return tmp_path


def test_folder_is_read_in_the_order_of_relative_paths_in_bounded_batches(folder, extractor):
    images = load_digits_rgb().images_N3HW[:70]
    batches = list(ImageFolder(folder).batches())
    assert [len(batch) for batch in batches] == [BATCH, 70 - BATCH]
    assert torch.equal(torch.cat(batches), images)
    reference = load_reference_set(str(folder), extractor)
    assert reference.images_sha256 == images_sha256(images)
    assert reference.image_shape == (32, 32)
    assert reference.name == folder.name
    torch.testing.assert_close(reference.features_ND, extractor.extract([images]).features_ND, rtol=1e-4, atol=1e-5)


def test_stored_digits_are_what_the_extractor_computes(extractor):
    stored = load_reference_set("digits", extractor)
    computed = load_reference_set("digits", replace(extractor, name="another"))
    torch.testing.assert_close(stored.features_ND, computed.features_ND, rtol=1e-4, atol=1e-5)
    assert stored.images_sha256 == computed.images_sha256
    assert stored.image_shape == computed.image_shape
    assert (stored.moments is None, computed.moments is None) == (False, True)


def test_statistics_of_other_weights_are_refused(extractor):
    with pytest.raises(ContractError, match="other weights"):
        load_reference_set("digits", replace(extractor, sha256="0" * 64))


def test_jpeg_and_grey_images_become_rgb(tmp_path):
    Image.fromarray(np.full((8, 6), 77, np.uint8)).save(tmp_path / "grey.png")
    Image.fromarray(np.full((8, 6, 3), 77, np.uint8)).save(tmp_path / "colour.jpg", quality=100)
    (batch,) = ImageFolder(tmp_path).batches()
    assert batch.shape == (2, 3, 8, 6)
    assert (batch.int() - 77).abs().max() <= 1


def test_missing_folder_says_what_a_reference_is(tmp_path, extractor):
    with pytest.raises(UserError, match="neither 'digits' nor a folder of images"):
        load_reference_set(str(tmp_path / "nowhere"), extractor)


def test_folder_without_images_is_refused(tmp_path, extractor):
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(UserError, match="no images"):
        load_reference_set(str(tmp_path), extractor)


def test_mixed_sizes_name_both_images(folder, extractor):
    write(folder / "b" / "99.png", torch.zeros(3, 16, 20, dtype=torch.uint8))
    with pytest.raises(UserError, match=r"00\.PNG is 32 x 32, .*99\.png is 20 x 16"):
        load_reference_set(str(folder), extractor)


@pytest.mark.parametrize("keep", [0, 10, 0.5])
def test_truncated_image_is_named(folder, extractor, keep):
    path = folder / "b" / "07.png"
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(len(content) * keep)])
    with pytest.raises(UserError, match=r"07\.png is not a readable image"):
        load_reference_set(str(folder), extractor)


@pytest.mark.parametrize("mode", ["RGBA", "CMYK", "P", "I;16"])
def test_colour_mode_that_needs_a_decision_is_refused(tmp_path, mode):
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    Image.new(mode, (4, 4)).save(path)
    with pytest.raises(UserError, match=rf"colour mode {mode}; convert"):
        read_image(path)
