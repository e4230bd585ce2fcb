"""Claims of the paper beyond the training set-up, on the trained demo model: no case here was trained on."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from arvbench.adapters import MODELS
from arvbench.adapters.loading import load_sampler
from arvbench.adapters.pixels import from_uint8
from arvbench.adapters.sampling import PerImageNoise
from arvbench.harness.data.digits import load_digits_rgb
from arvbench.harness.quality.extractors.digits_cnn import load_classifier

LABELS = torch.arange(10).repeat_interleave(3)


@pytest.fixture(scope="module")
def sampler():
    return load_sampler("demo/flexvar", weights="demo", backend="optimized")


def classes(images):
    """Classes that the digits' classifier assigns to images of any size."""
    if images.shape[2:] != (32, 32):
        images = F.interpolate(images.float(), size=(32, 32), mode="area").to(torch.uint8)
    with torch.no_grad():
        return load_classifier()(images)[1].argmax(dim=1)


@pytest.mark.parametrize(
    ("scales", "size"),
    [
        ("1_2_4_8", (32, 32)),
        ("1_2_3_5_8", (32, 32)),
        ("1_2_3_4_5_6_7_8", (32, 32)),
        ("1_2_3_4_6", (24, 24)),
        ("1_2_3_4_6_8_12", (48, 48)),
        ("1_2_3_4_6_8_12_16", (64, 64)),
        ("1_2_3x4_6x9_8x12", (32, 48)),
    ],
)
def test_other_steps_resolutions_and_aspect_ratios_still_give_the_requested_digits(sampler, scales, size):
    assert scales != "_".join(map(str, MODELS["demo/flexvar"].transformer.patch_nums))
    settings = sampler.spec.settings.model_copy(update={"scales": scales})
    samples = sampler.sample(LABELS, settings, noise=PerImageNoise(0, range(len(LABELS))))
    assert samples.images.shape[2:] == size
    assert (classes(samples.images) == LABELS).float().mean() >= 0.9


def test_the_lower_half_of_a_digit_is_painted_to_fit_the_upper_one(sampler):
    digits = load_digits_rgb().split("held-out")
    order = digits.labels_N.argsort(stable=True)[::6]
    images, labels = digits.images_N3HW[order], digits.labels_N[order]
    keep = torch.zeros(len(labels), 32, 32, dtype=torch.bool)
    keep[:, :16] = True
    noise = PerImageNoise(0, range(len(labels)))
    painted = sampler.edit(from_uint8(images), keep, labels, sampler.spec.settings, noise=noise).images
    # Rows near the border change a little: the decoder looks at tokens on both sides of it.
    restored = sampler.decode(sampler.encode(from_uint8(images))).mul(255).clamp(0, 255)
    difference = (painted[:, :, :10] - restored[:, :, :10]).abs().mean()
    assert difference < 10
    assert (painted[:, :, 20:] - restored[:, :, 20:]).abs().mean() > 3 * difference
    assert (classes(painted) == labels).float().mean() >= 0.9
