"""The committed classifier is good, is the one that made the committed statistics, and can be made again."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from arvbench.adapters.checkpoints import sha256_of
from arvbench.errors import CheckpointError
from arvbench.harness.data.digits import Digits, load_digits_rgb
from arvbench.harness.quality.extractors.digits_cnn import DATA, WEIGHTS_FILE, DigitsCnn, load_classifier
from arvbench.harness.quality.identity import images_sha256
from arvbench.harness.quality.reference.digits import REFERENCE_FILE, load_digits_statistics
from arvbench.harness.training.classifier import (
    RECORD_FILE,
    ClassifierSettings,
    ClassifierTraining,
    accuracy,
    augment,
    train_classifier,
)


@pytest.fixture(scope="module")
def digits() -> Digits:
    return load_digits_rgb()


@pytest.fixture(scope="module")
def few(digits) -> Digits:
    return Digits(images_N3HW=digits.images_N3HW[:96], labels_N=digits.labels_N[:96])


def test_held_out_scans_are_recognised(digits):
    assert accuracy(load_classifier(), digits.split("held-out")) >= 0.98


def test_shifted_scans_are_recognised(digits):
    held_out = digits.split("held-out")
    moved = Digits(images_N3HW=held_out.images_N3HW.roll(2, dims=2), labels_N=held_out.labels_N)
    moved.images_N3HW[:, :, :2] = 0
    assert accuracy(load_classifier(), moved) >= 0.95


def test_accuracy_counts_hits(digits):
    held_out = digits.split("held-out")
    wrong = Digits(images_N3HW=held_out.images_N3HW, labels_N=(held_out.labels_N + 1) % 10)
    model = load_classifier()
    assert accuracy(model, wrong) <= 1 - accuracy(model, held_out)


def test_committed_statistics_equal_those_of_the_committed_classifier(digits):
    stored = load_digits_statistics()
    with torch.no_grad():
        features = load_classifier()(digits.images_N3HW)[0]
    torch.testing.assert_close(stored.features_ND, features, rtol=1e-4, atol=1e-5)
    exact = stored.features_ND.double().numpy()
    centred = exact - exact.mean(axis=0)
    np.testing.assert_allclose(stored.mu_D.numpy(), exact.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(stored.sigma_DD.numpy(), centred.T @ centred / 1796, rtol=1e-9, atol=1e-12)
    assert stored.mu_D.dtype == stored.sigma_DD.dtype == torch.float64
    assert torch.equal(stored.labels_N, digits.labels_N)
    assert stored.images_sha256 == images_sha256(digits.images_N3HW)
    assert stored.extractor_sha256 == sha256_of(DATA / WEIGHTS_FILE)


def test_committed_record_describes_the_committed_files(digits):
    record = json.loads((DATA / RECORD_FILE).read_text())
    assert record["sha256"] == {name: sha256_of(DATA / name) for name in (WEIGHTS_FILE, REFERENCE_FILE)}
    measured = accuracy(load_classifier(), digits.split("held-out"))
    assert record["held_out_accuracy"] == pytest.approx(measured, abs=1.5 / 300)
    assert len(record["losses"]) == record["settings"]["epochs"] == ClassifierSettings().epochs
    assert (DATA / WEIGHTS_FILE).stat().st_size < 300_000


def test_training_twice_writes_the_same_files(tmp_path, digits, monkeypatch):
    # The last 300 are held out.
    some = Digits(images_N3HW=digits.images_N3HW[:500], labels_N=digits.labels_N[:500])
    monkeypatch.setattr("arvbench.harness.training.classifier.load_digits_rgb", lambda: some)
    training = ClassifierTraining(settings=ClassifierSettings(epochs=1, batch=64))
    events = []
    torch.manual_seed(1)
    first = training.run(tmp_path / "a", progress=lambda *event: events.append(event))
    torch.manual_seed(2)
    second = training.run(tmp_path / "b")
    assert first["sha256"] == second["sha256"]
    assert first["losses"] == second["losses"]
    assert events == [(1, 1, {"loss": first["losses"][0]})]
    for name in (WEIGHTS_FILE, REFERENCE_FILE):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_another_seed_gives_other_weights(few):
    one, two = (train_classifier(few, ClassifierSettings(epochs=1, seed=seed)).model for seed in (0, 1))
    assert not torch.equal(one.head.weight, two.head.weight)


def test_training_learns_and_leaves_threads_and_random_state_alone(few):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    trained = train_classifier(few, ClassifierSettings(epochs=8, batch=32))
    assert trained.losses[-1] < 0.6 * trained.losses[0]
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_augmentation_without_strength_changes_nothing_and_with_strength_moves_ink(few):
    still = ClassifierSettings(max_shift_px=0, max_rotation_deg=0, max_zoom=0, max_noise=0)
    plain = few.images_N3HW.float() / 127.5 - 1
    torch.testing.assert_close(augment(few.images_N3HW, still, torch.Generator()), plain, atol=1e-4, rtol=0)
    moved = augment(few.images_N3HW, ClassifierSettings(), torch.Generator())
    assert ((moved - plain).abs().amax(dim=(1, 2, 3)) > 0.1).all()
    assert moved.min() >= -1
    assert moved.max() <= 1


def test_features_depend_on_their_own_image_only(few):
    model = load_classifier()
    features, logits = model(few.images_N3HW)
    assert features.shape == (96, 64)
    assert logits.shape == (96, 10)
    torch.testing.assert_close(model(few.images_N3HW[5:6])[0], features[5:6], rtol=1e-4, atol=1e-5)


def test_a_file_of_other_weights_is_refused(tmp_path):
    model = DigitsCnn()
    torch.save({"head.weight": model.head.weight.detach()}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="missing"):
        load_classifier(tmp_path / "other.pth")


@pytest.mark.parametrize("content", [b"", b"not safetensors at all"])
def test_damaged_statistics_are_refused(tmp_path, content):
    path = tmp_path / REFERENCE_FILE
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="train digits-cnn"):
        load_digits_statistics(path)


def test_weights_are_not_taken_for_statistics():
    with pytest.raises(CheckpointError, match="no statistics"):
        load_digits_statistics(DATA / WEIGHTS_FILE)


def test_features_have_the_same_bits_with_and_without_gradients():
    images = torch.randint(0, 256, (9, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    classifier = load_classifier()
    plain, trained = classifier(images), classifier.requires_grad_(True)(images)
    assert trained[0].requires_grad and all(torch.equal(one, other) for one, other in zip(plain, trained, strict=True))
