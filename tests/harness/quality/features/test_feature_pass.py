"""Several processes share the images, and the numbers do not change."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import two_chunks
from PIL import Image

from arvbench.harness.data.digits import load_digits_rgb
from arvbench.harness.quality.extractors import load_extractor
from arvbench.harness.quality.features import feature_pass
from arvbench.harness.quality.features.feature_pass import FeaturePass, helper_devices, processes_that_pay
from arvbench.harness.quality.images.live import load_live_source
from arvbench.harness.quality.images.open import open_images
from arvbench.harness.quality.images.tensors import TensorSource
from arvbench.results.schema import CaseConfig

LAYERS = frozenset({"64", "logits"})
CASE = CaseConfig(
    model="demo/detailflow",
    weights="demo",
    batch=64,
    threads=1,
    quality={"protocols": ["digits-cnn"], "reference": "digits", "images": 260},
)


@pytest.fixture(scope="module")
def layer_requests():
    return [(load_extractor("digits-cnn"), LAYERS)]


@pytest.fixture(scope="module")
def npz(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("samples") / "digits.npz"
    np.savez(path, arr_0=load_digits_rgb().images_N3HW.permute(0, 2, 3, 1).numpy())
    return path


def assert_same(found, alone) -> None:
    assert found.images_sha256 == alone.images_sha256
    a, b = found.features["digits-cnn"], alone.features["digits-cnn"]
    for layer in LAYERS:
        assert torch.equal(a.features(layer), b.features(layer))
        assert torch.equal(a.moments(layer).mean_D, b.moments(layer).mean_D)
        assert torch.equal(a.moments(layer).cov_DD, b.moments(layer).cov_DD)


def test_drawn_images_are_the_same_bit_for_bit_with_two_processes(layer_requests, forked_helpers):
    alone, shared = (FeaturePass(workers=workers).scan(load_live_source(CASE), layer_requests) for workers in (1, 2))
    assert_same(shared, alone)


def test_another_process_really_makes_chunks(layer_requests, npz, tmp_path, monkeypatch):
    """This process makes the first chunk and at most one more: the rest comes from the other one."""
    alone = FeaturePass().scan(open_images(npz), layer_requests)
    source = open_images(npz)
    real = source.read

    def read(start: int, stop: int) -> torch.Tensor:
        others = [tmp_path / "w" / f"chunk-{c:06d}.safetensors" for c in range(1, 8) if c != start // 256]
        deadline = time.monotonic() + 60
        while start > 0 and not all(path.is_file() for path in others):
            assert time.monotonic() < deadline, "the other process made nothing"
            time.sleep(0.05)
        return real(start, stop)

    monkeypatch.setattr(source, "read", read)
    heard: list[int] = []
    assert_same(FeaturePass(workers=2, work=tmp_path / "w").scan(source, layer_requests, heard.append), alone)
    assert heard[-1] == 1797 and heard == sorted(heard)


def test_a_process_that_dies_costs_nothing_but_time(layer_requests, npz, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    shared = FeaturePass(workers=3, work=tmp_path / "w").scan(open_images(npz), layer_requests)
    assert_same(shared, FeaturePass().scan(open_images(npz), layer_requests))


def test_images_that_only_this_process_has_are_not_shared(layer_requests, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/no/such/program")
    digits = TensorSource(load_digits_rgb().images_N3HW)
    assert_same(FeaturePass(workers=3).scan(digits, layer_requests), FeaturePass().scan(digits, layer_requests))


def test_every_task_may_have_a_folder_of_its_own(layer_requests, tmp_path):
    images = load_digits_rgb().images_N3HW
    features = FeaturePass(work=tmp_path, folder_per_task=True)
    for part in (images[:20], images[20:40], images[:20]):
        features.scan(TensorSource(part), layer_requests)
    assert len(list(tmp_path.iterdir())) == 2


def test_every_further_process_has_a_device(monkeypatch):
    assert helper_devices("cpu", 2) == ["cpu", "cpu"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert helper_devices("cuda", 3) == ["cuda:1", "cuda:2", "cuda:3"]
    assert helper_devices("cuda:2", 3) == ["cuda:3", "cuda:0", "cuda:1"]


@pytest.mark.parametrize(
    ("images", "image_s", "cores", "processes"),
    [(512, 0.16, 2, 2), (512, 0.0004, 2, 1), (50_000, 0.0004, 8, 8), (256, 0.16, 1, 1), (2048, 0.0004, 16, 1)],
    ids=["two-chunks-of-inception", "digits", "many-digits", "one-core", "eight-chunks-of-digits"],
)
def test_cores_are_used_when_they_save_more_than_their_start(
    images: int, image_s: float, cores: int, processes: int
) -> None:
    assert processes_that_pay(images * image_s, cores) == processes


def test_a_folder_that_grows_after_its_listing_is_measured_as_it_was_listed(layer_requests, tmp_path, forked_helpers):
    """The other process lists the larger folder; were it to extract, its chunks would hold other images."""
    digits = load_digits_rgb().images_N3HW.permute(0, 2, 3, 1).numpy()
    folder = tmp_path / "samples"
    folder.mkdir()
    for number in range(600):
        Image.fromarray(digits[number]).save(folder / f"{number:06d}.png")
    alone = FeaturePass().scan(open_images(folder), layer_requests)
    source = open_images(folder)
    for number in range(600, 640):
        Image.fromarray(digits[number]).save(folder / f"{number - 600:06d}-late.png")
    shared = FeaturePass(workers=2, work=tmp_path / "w").scan(source, layer_requests)
    assert_same(shared, alone)


def test_a_process_that_lists_other_images_extracts_nothing(layer_requests, tmp_path, monkeypatch):
    folder = tmp_path / "samples"
    folder.mkdir()
    digits = load_digits_rgb().images_N3HW.permute(0, 2, 3, 1).numpy()
    for number in range(3):
        Image.fromarray(digits[number]).save(folder / f"{number}.png")
    source = open_images(folder)
    job = FeaturePass()._job(source, layer_requests, tmp_path / "w", "cpu")
    Image.fromarray(digits[9]).save(folder / "late.png")
    monkeypatch.setattr(feature_pass, "receive", job.model_dump_json)
    assert feature_pass.main() == 1
    assert not list(tmp_path.glob("w/chunk-*"))


def test_the_comparison_of_one_and_two_processes_ends_with_equal_features(capfd, forked_helpers):
    two_chunks.main(["--images", "257", "--px", "32", "--extractor", "digits-cnn"])
    lines = capfd.readouterr().out.splitlines()
    assert [line[0] for line in lines[:-1]] == ["1", "2", "1", "2"] and lines[-1].endswith("equal features: True")
