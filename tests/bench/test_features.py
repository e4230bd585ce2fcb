"""Inception features per second: `adm-v1` beside torch-fidelity and clean-fid on the same images.

`pytest tests/bench/test_features.py --benchmark-enable --benchmark-only`, on a machine that does nothing else: 16
images of 256 pixels, all cores. Disabled, every benchmark runs once on one image. Nothing is timed before its features
have agreed with ours. The libraries are called as they call themselves, from images in memory: clean-fid's PNG files
and worker processes are left out, which favours it. All have the same random weights; clean-fid's TorchScript is a
trace of torch-fidelity's modules, because NVIDIA's own file is not part of a test.

Bars     adm-v1 >= 1.2 times torch-fidelity, >= 1.5 times clean-fid, in images/s
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from random_inception import write_random_inception
from random_torchscript import write_torchscript
from torch import Tensor
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from arvbench.harness.quality.extractors import load_extractor
from arvbench.harness.quality.extractors.inception.tf1_resize import resize_tf1

Features = Callable[[Tensor], Tensor]
"""uint8 (N, 3, H, W) -> (N, 2048)."""

SIDE_PX, NETWORK_PX = 256, 299
TOLERANCE = 1e-4
"""Largest difference over the standard deviation of the features."""


@pytest.fixture
def images(benchmark) -> Tensor:
    count = 16 if benchmark.enabled else 1
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, SIDE_PX, SIDE_PX), dtype=torch.uint8, generator=generator)


@pytest.fixture(autouse=True)
def threads(benchmark) -> Iterator[int]:
    """All cores while timing; other tests run on one."""
    before = torch.get_num_threads()
    torch.set_num_threads((os.cpu_count() or 1) if benchmark.enabled else 1)
    yield torch.get_num_threads()
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return write_random_inception(tmp_path_factory.mktemp("weights") / "random.pth")


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    """Folder with the TorchScript file under the name that clean-fid looks for."""
    folder = tmp_path_factory.mktemp("program")
    write_torchscript(folder / "inception-2015-12-05.pt")
    return folder


@pytest.fixture(scope="module")
def adm(weights) -> Features:
    extractor = load_extractor("adm-inception", extractor_files={"inception": weights})
    return lambda images: extractor.extract(images)["pool"]


@pytest.fixture(scope="module")
def fidelity(weights) -> Features:
    extractor = load_extractor("fidelity-inception", extractor_files={"inception": weights})
    return lambda images: extractor.extract(images)["2048"]


def clean_fid(mode: str, program: Path) -> Features:
    """clean-fid's preparation of images and its network, as its own `get_files_features` joins them."""
    from cleanfid.fid import get_batch_features
    from cleanfid.inception_torchscript import InceptionV3W
    from cleanfid.resize import build_resizer
    from torchvision.transforms import ToTensor

    resize, to_tensor, device = build_resizer(mode), ToTensor(), torch.device("cpu")
    model = InceptionV3W(str(program), download=False, resize_inside=mode == "legacy_tensorflow").eval()

    def prepared(image_3HW: Tensor) -> Tensor:
        pixels = resize(image_3HW.permute(1, 2, 0).numpy())
        return to_tensor(pixels) * (255 if pixels.dtype == "uint8" else 1)

    def features(images: Tensor) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            batch = torch.stack([prepared(image) for image in images])
            return torch.from_numpy(get_batch_features(batch, model, device))

    return features


def assert_agree(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    difference = float((found - expected).abs().max() / expected.std())
    assert difference < TOLERANCE, difference


def timed(benchmark, call: Callable[[Tensor], object], images: Tensor, threads: int, group: str) -> None:
    benchmark.group = group
    benchmark.pedantic(call, args=(images,), rounds=3, warmup_rounds=1)
    benchmark.extra_info |= {"images": len(images), "px": images.shape[2], "threads": threads}
    if benchmark.enabled:
        benchmark.extra_info["images_per_s"] = round(len(images) / benchmark.stats.stats.min, 2)


def test_adm_v1(benchmark, adm, fidelity, images, threads):
    assert_agree(adm(images[:2]), fidelity(images[:2]))
    timed(benchmark, adm, images, threads, "inception features")


def test_torch_fidelity(benchmark, adm, fidelity, images, threads):
    assert_agree(fidelity(images[:2]), adm(images[:2]))
    timed(benchmark, fidelity, images, threads, "inception features")


def test_clean_fid_clean(benchmark, adm, program, images, threads):
    features = clean_fid("clean", program)
    # Its resize differs by design, so the networks are compared on images that need no resize.
    same_size = torch.nn.functional.interpolate(images[:2], size=NETWORK_PX)
    assert_agree(features(same_size), adm(same_size))
    timed(benchmark, features, images, threads, "inception features")


def test_clean_fid_legacy_tensorflow(benchmark, adm, program, images, threads):
    features = clean_fid("legacy_tensorflow", program)
    assert_agree(features(images[:2]), adm(images[:2]))
    timed(benchmark, features, images, threads, "inception features")


def fidelity_resize(images: Tensor) -> Tensor:
    return interpolate_bilinear_2d_like_tensorflow1x(images.float(), size=(NETWORK_PX,) * 2, align_corners=False)


@pytest.mark.parametrize("name", ["adm-v1", "torch-fidelity"])
def test_resize(benchmark, name, images, threads):
    resizes = {"adm-v1": lambda images: resize_tf1(images, NETWORK_PX), "torch-fidelity": fidelity_resize}
    assert torch.equal(resize_tf1(images, NETWORK_PX), fidelity_resize(images))
    timed(benchmark, resizes[name], images, threads, "TF1 resize")
