"""Abilities that the papers claim without training for them, on the trained demo models.

In-painting and class-conditional editing: VAR (section 5.3), M-VAR, HMAR and FlexVAR. Other mask schedules: HMAR. Other
step counts and sizes: FlexVAR, in tests/adapters/flexvar/test_flexvar_demo.py.
"""

from __future__ import annotations

import pytest
import torch

from arvbench.adapters import MODELS
from arvbench.adapters.editing import keep_per_scale
from arvbench.adapters.loading import demo_models, load_sampler
from arvbench.adapters.pixels import from_uint8
from arvbench.adapters.sampling import PerImageNoise
from arvbench.errors import UserError
from arvbench.harness.data.digits import load_digits_rgb
from arvbench.harness.quality.extractors.digits_cnn import load_classifier

EDITORS = [name for name in demo_models() if MODELS[name].sampler.edits]


@pytest.fixture(scope="module", params=EDITORS)
def sampler(request):
    return load_sampler(request.param, weights="demo", backend="optimized")


@pytest.fixture(scope="module")
def digits():
    """Twenty held-out scans, two of every class, and their labels."""
    held_out = load_digits_rgb().split("held-out")
    rows = torch.cat([(held_out.labels_N == label).nonzero()[:2, 0] for label in range(10)])
    return from_uint8(held_out.images_N3HW[rows]), held_out.labels_N[rows]


@pytest.fixture(scope="module")
def few(digits):
    """Six of them, for what holds of every single image."""
    images, labels = digits
    return images[2::3], labels[2::3]


def edit(sampler, images, keep, labels, seed=0):
    return sampler.edit(images, keep, labels, sampler.spec.settings, noise=PerImageNoise(seed, range(len(images))))


def classified(samples):
    return load_classifier()(samples.images)[1].argmax(dim=1)


def test_the_families_of_the_papers_can_edit():
    assert {"demo/var", "demo/mvar", "demo/hmar", "demo/flexvar"} == set(EDITORS)


def test_known_tokens_stay_and_others_are_drawn(sampler, few):
    images, labels = few
    keep = torch.zeros(len(images), 32, 32, dtype=torch.bool)
    keep[:, :, :16] = True
    samples = edit(sampler, images, keep, labels)
    known = sampler.encode(images)
    kept = keep_per_scale(keep, sampler.sides(sampler.spec.settings))
    for ours, theirs, where in zip(samples.tokens, known, kept, strict=True):
        assert torch.equal(ours[where], theirs[where])
    finest, drawn = samples.tokens[-1] != known[-1], ~kept[-1]
    assert finest[drawn].float().mean() > 0.3


def test_everything_kept_is_the_reconstruction_and_nothing_kept_a_new_sample(sampler, few):
    images, labels = few
    everything = torch.ones(len(images), 32, 32, dtype=torch.bool)
    restored = edit(sampler, images, everything, labels)
    torch.testing.assert_close(restored.decoded, sampler.decode(sampler.encode(images)), atol=1e-5, rtol=0)
    fresh = edit(sampler, images, ~everything, labels)
    plain = sampler.sample(labels, sampler.spec.settings, noise=PerImageNoise(0, range(len(labels))))
    assert torch.equal(fresh.images, plain.images)


@pytest.fixture(scope="module")
def painted(sampler, digits):
    """The digits with their lower halves drawn."""
    images, labels = digits
    keep = torch.zeros(len(images), 32, 32, dtype=torch.bool)
    keep[:, :16] = True
    return edit(sampler, images, keep, labels)


def test_the_kept_half_of_the_picture_does_not_change(sampler, digits, painted):
    images, _ = digits
    difference = (painted.decoded - sampler.decode(sampler.encode(images))).abs().mean(dim=1)
    # Away from the seam, where a decoder mixes both sides.
    kept, drawn = difference[:, :12].mean(), difference[:, 20:].mean()
    assert kept < 0.25 * drawn


def test_a_painted_in_half_makes_the_requested_digit(digits, painted):
    _, labels = digits
    assert (classified(painted) == labels).float().mean() >= 0.8


def test_editing_makes_another_digit_inside_a_kept_frame(sampler, digits):
    images, labels = digits
    keep = torch.ones(len(images), 32, 32, dtype=torch.bool)
    keep[:, 2:30, 4:28] = False
    wanted = (labels + 3) % 10
    right = (classified(edit(sampler, images, keep, wanted)) == wanted).float().mean()
    assert right >= 0.7


def test_an_edit_does_not_depend_on_its_batch(sampler, few):
    images, labels = few
    keep = torch.zeros(len(images), 32, 32, dtype=torch.bool)
    keep[:, :, 16:] = True
    together = edit(sampler, images, keep, labels)
    alone = sampler.edit(images[5:6], keep[5:6], labels[5:6], sampler.spec.settings, noise=PerImageNoise(0, [5]))
    for one, all_of_them in zip(alone.tokens, together.tokens, strict=True):
        assert torch.equal(one, all_of_them[5:6])


@pytest.mark.parametrize(
    "schedule",
    [
        "none",
        ((1,), (4,), (9,), (16,), (36,), (16, 48)),
        ((1,), (1, 3), (1, 3, 5), (2, 6, 8), (4, 12, 20), (8, 16, 40)),
    ],
    ids=["none", "last scale only", "three passes"],
)
def test_hmar_works_with_mask_schedules_that_it_was_not_tuned_for(schedule):
    sampler = load_sampler("demo/hmar", weights="demo", backend="optimized")
    settings = sampler.spec.settings.model_copy(update={"mask_schedule": schedule})
    labels = torch.arange(10).repeat(2)
    samples = sampler.sample(labels, settings, noise=PerImageNoise(0, range(20)))
    assert len(sampler.schedule(settings, batch=1)) == (6 if schedule == "none" else sum(map(len, schedule)))
    assert (classified(samples) == labels).float().mean() >= 0.95


@pytest.mark.parametrize(
    ("keep", "labels", "message"),
    [
        (torch.ones(1, 32, 32), [1], "boolean"),
        (torch.ones(1, 16, 16, dtype=torch.bool), [1], "does not fit images"),
        (torch.ones(1, 32, 32, dtype=torch.bool), [1, 2], "1 images and 2 labels"),
    ],
)
def test_images_masks_and_labels_that_do_not_fit_are_refused(sampler, digits, keep, labels, message):
    with pytest.raises(UserError, match=message):
        sampler.edit(digits[0][:1], keep, labels, sampler.spec.settings, noise=PerImageNoise(0, range(len(labels))))


@pytest.fixture
def refused(sampler, monkeypatch):
    """Edits that must fail before anything is encoded."""

    def encode(*args, **options):
        raise AssertionError("encoded")

    monkeypatch.setattr(sampler, "encode", encode)

    def refused(message, *, images=None, labels=(1, 2), **changes):
        images = torch.zeros(2, 3, 32, 32) if images is None else images
        keep = torch.ones(len(images), *images.shape[-2:], dtype=torch.bool)
        settings = sampler.spec.settings.model_copy(update=changes)
        with pytest.raises(UserError, match=message):
            sampler.edit(images, keep, labels, settings, noise=PerImageNoise(0, range(2)))

    return refused


@pytest.mark.parametrize(
    ("labels", "message"),
    [(1, "flat list"), ([], "batch 0"), ([0, 10], "label 10 is out of range"), (torch.ones(2), "integers")],
)
def test_an_edit_with_invalid_labels_is_refused(refused, labels, message):
    refused(message, labels=labels)


def test_an_edit_with_settings_that_the_model_cannot_follow_is_refused(refused):
    refused("larger than the vocabulary", top_k=10_000)


@pytest.mark.parametrize("shape", [(2, 1, 32, 32), (2, 3, 16, 16), (2, 3, 32, 36), (3, 32, 32), (2, 4, 32, 32)])
def test_an_edit_of_images_of_another_size_is_refused(refused, shape):
    refused(r"images must be \(batch, 3, 32, 32\), the size that these settings make, got", images=torch.zeros(shape))


def test_an_edit_of_bytes_is_refused(refused):
    refused("must be float.*uint8: from_uint8", images=torch.zeros(2, 3, 32, 32, dtype=torch.uint8))


def test_flexvar_edits_images_of_the_size_that_its_scales_make():
    sampler = load_sampler("demo/flexvar", weights="demo", backend="optimized")
    settings = sampler.spec.settings.model_copy(update={"scales": (1, 2, 4, (6, 10))})
    images, noise = torch.zeros(1, 3, 24, 40), PerImageNoise(0, [0])
    keep = torch.ones(1, 24, 40, dtype=torch.bool)
    assert sampler.edit(images, keep, [1], settings, noise=noise).images.shape == (1, 3, 24, 40)
    with pytest.raises(UserError, match=r"images must be \(batch, 3, 24, 40\)"):
        sampler.edit(torch.zeros(1, 3, 32, 32), torch.ones(1, 32, 32, dtype=torch.bool), [1], settings, noise=noise)
