"""Changes of images that are there: what they do to bytes, and that every range of a read has equal bytes."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from arvbench.adapters.pixels import to_uint8
from arvbench.errors import UserError
from arvbench.harness.quality.features.feature_pass import HelperJob, _open
from arvbench.harness.quality.images.changed import changed, image_change
from arvbench.harness.quality.images.open import open_images
from arvbench.harness.quality.images.source import Provenance
from arvbench.harness.quality.images.tensors import TensorSource

FLOATS = torch.rand(40, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 1.2 - 0.1
"""A sixth of the values lies beyond [0, 1] and is cut off."""


def source(rule: str = "round") -> TensorSource:
    return TensorSource(
        to_uint8(FLOATS, "truncate" if rule == "truncate" else "round"),
        name="made",
        labels_N=torch.arange(40) % 4,
        provenance=Provenance(labels="balanced", uint8_rule=rule),
    )


def change(given: TensorSource, cause: str, value: str):
    return changed(given, image_change(cause, value, given))


@pytest.mark.parametrize(
    ("cause", "value"), [("images", "7"), ("jpeg", "80"), ("uint8", "truncate"), ("uint8", "round")]
)
def test_any_range_reads_the_same_bytes(cause: str, value: str) -> None:
    made = change(source(), cause, value)
    whole = made.read(0, made.count)
    assert whole.shape == (made.count, 3, 16, 16) and whole.dtype == torch.uint8
    parts = torch.cat([made.read(start, start + 1) for start in range(made.count)])
    assert torch.equal(whole, parts) and len(made.read(3, 3)) == 0
    assert torch.equal(change(source(), cause, value).read(0, made.count), whole)


def test_fewer_images_are_some_of_them_in_their_order_with_their_labels() -> None:
    given = source()
    made = change(given, "images", "15")
    everything = given.read(0, 40)
    places = [next(i for i in range(40) if torch.equal(everything[i], image)) for image in made.read(0, 15)]
    assert places == sorted(set(places)) and len(places) == 15 and places != list(range(15))
    assert made.labels_N.tolist() == [place % 4 for place in places]
    assert made.provenance.labels == "unknown", "15 drawn images are no longer balanced"


def test_a_simulated_rule_moves_half_of_the_bytes_as_the_rule_itself_does() -> None:
    def moved(before: Tensor, after: Tensor) -> float:
        return float((before != after).double().mean())

    rounded, truncated = source("round"), source("truncate")
    simulated = change(rounded, "uint8", "truncate").read(0, 40)
    real = to_uint8(FLOATS, "truncate")
    steps = rounded.read(0, 40).int() - simulated.int()
    inside = (rounded.read(0, 40) > 0) & (rounded.read(0, 40) < 255)
    assert set(steps.unique().tolist()) == {0, 1} and not steps[~inside].any()
    assert moved(rounded.read(0, 40), simulated) == pytest.approx(moved(rounded.read(0, 40), real), abs=0.01)
    assert float(simulated.double().mean()) == pytest.approx(float(real.double().mean()), abs=0.02)
    back = change(truncated, "uint8", "127.5x+128").read(0, 40)
    assert set((back.int() - truncated.read(0, 40).int()).unique().tolist()) == {0, 1}
    assert torch.equal(change(rounded, "uint8", "127.5x+128").read(0, 40), rounded.read(0, 40))


def test_jpeg_is_pillows() -> None:
    given = source()
    stream = io.BytesIO()
    Image.fromarray(given.read(5, 6)[0].permute(1, 2, 0).numpy()).save(stream, "JPEG", quality=60)
    expected = np.asarray(Image.open(stream).convert("RGB"))
    assert np.array_equal(change(given, "jpeg", "60").read(5, 6)[0].permute(1, 2, 0).numpy(), expected)


def test_a_helper_process_opens_the_same_changed_images(tmp_path) -> None:
    np.savez(tmp_path / "s.npz", arr_0=source().read(0, 40).permute(0, 2, 3, 1).numpy())
    given = open_images(tmp_path / "s.npz", resize="pil-bicubic:8")
    made = change(given, "images", "9")
    job = HelperJob(images=made.address, images_key="", layers={}, extractor_files={}, device="cpu", work=tmp_path)
    opened = _open(HelperJob.model_validate_json(job.model_dump_json()))
    assert opened.key == made.key != given.key and torch.equal(opened.read(0, 9), made.read(0, 9))


@pytest.mark.parametrize(
    ("cause", "value", "rule", "message"),
    [
        ("images", "40", "round", "made has 40 images; give a number from 2 to 39"),
        ("images", "all", "round", "from 2 to 39"),
        ("jpeg", "0", "round", "a number from 1 to 100"),
        ("jpeg", "101", "round", "a number from 1 to 100"),
        ("uint8", "floor", "round", "no uint8 rule 'floor'"),
        ("uint8", "round", "unknown", "made does not say by which rule its floats became bytes: say it with --uint8"),
        ("uint8", "round", "none", "there were no floats"),
    ],
)
def test_a_change_that_is_impossible_says_why(cause: str, value: str, rule: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        image_change(cause, value, source(rule))
