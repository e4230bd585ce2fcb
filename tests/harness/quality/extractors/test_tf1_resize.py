"""TensorFlow 1's bilinear resize, bit for bit: against a loop of single operations and torch-fidelity's emulation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from arvbench.harness.quality.extractors.inception.tf1_resize import resize_tf1


def random_images(count: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def loop(image_3HW: np.ndarray, side: int) -> np.ndarray:
    """One number at a time, as the kernel is written."""
    one = np.float32
    _, height, width = image_3HW.shape
    step_y, step_x = one(height) / one(side), one(width) / one(side)
    out = np.empty((3, side, side), dtype=one)
    for y in range(side):
        source_y = one(y) * step_y
        low_y = int(np.floor(source_y))
        high_y, weight_y = min(low_y + 1, height - 1), source_y - one(low_y)
        for x in range(side):
            source_x = one(x) * step_x
            low_x = int(np.floor(source_x))
            high_x, weight_x = min(low_x + 1, width - 1), source_x - one(low_x)
            tl, tr = image_3HW[:, low_y, low_x].astype(one), image_3HW[:, low_y, high_x].astype(one)
            bl, br = image_3HW[:, high_y, low_x].astype(one), image_3HW[:, high_y, high_x].astype(one)
            top = tl + (tr - tl) * weight_x
            bottom = bl + (br - bl) * weight_x
            out[:, y, x] = top + (bottom - top) * weight_y
    return out


@pytest.mark.parametrize(("height", "width"), [(64, 64), (7, 41), (1, 1), (33, 5), (23, 23), (48, 24)])
def test_every_bit_is_that_of_a_loop(height, width):
    images = random_images(1, height, width)
    assert np.array_equal(resize_tf1(images, 23)[0].numpy(), loop(images[0].numpy(), 23))


@pytest.mark.parametrize(
    ("height", "width"),
    [(256, 256), (512, 512), (128, 128), (64, 64), (32, 32), (299, 299), (300, 300), (1, 1), (256, 384), (31, 600)],
)
def test_every_bit_is_that_of_torch_fidelity(height, width):
    images = random_images(2, height, width)
    out = resize_tf1(images, 299)
    expected = interpolate_bilinear_2d_like_tensorflow1x(images.float(), size=(299, 299), align_corners=False)
    assert out.dtype == torch.float32
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(out, expected)


def test_the_same_size_changes_nothing_and_the_input_stays():
    images = random_images(3, 299, 299)
    before = images.clone()
    assert torch.equal(resize_tf1(images, 299), images.float())
    assert torch.equal(images, before)


def test_pixels_are_read_at_their_corners_and_not_at_their_centres():
    ramp = torch.arange(0, 8, dtype=torch.uint8).expand(1, 3, 8, 8)
    line = resize_tf1(ramp, 16)[0, 0, 0]
    assert line.tolist() == [*(i / 2 for i in range(15)), 7.0]


def test_an_image_does_not_see_its_batch_nor_the_memory_it_comes_in():
    images = random_images(5, 40, 40)
    together = resize_tf1(images, 299)
    assert torch.equal(resize_tf1(images[3:4], 299)[0], together[3])
    assert torch.equal(resize_tf1(images.contiguous(memory_format=torch.channels_last), 299), together)
    assert torch.equal(resize_tf1(images.flip(0)[1:2], 299)[0], together[3])


def test_an_empty_batch_stays_empty():
    assert resize_tf1(torch.zeros((0, 3, 8, 8), dtype=torch.uint8), 299).shape == (0, 3, 299, 299)
