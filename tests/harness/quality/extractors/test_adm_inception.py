"""Our Inception against torch-fidelity's with the same random weights: the same graph, the same numbers.

Differences are relative to the standard deviation of the layer, because a feature near zero has no relative error.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from random_inception import random_inception, random_inception_state, write_random_inception
from safetensors.torch import save_file
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from arvbench.adapters.checkpoints import sha256_of
from arvbench.errors import CheckpointError, UserError
from arvbench.harness.quality.extractors import load_extractor
from arvbench.harness.quality.extractors.adm_inception import scaled
from arvbench.harness.quality.extractors.inception.graph import IMAGE_PX
from arvbench.harness.quality.extractors.inception.network import Inception, checked_tensors
from arvbench.harness.quality.extractors.weights import WEIGHTS

LAYERS = {"pool": 2048, "spatial": 2023, "logits": 1008}


def random_images(count: int, height: int, width: int | None = None, seed: int = 0) -> Tensor:
    """Smooth and noisy at once, so that no part of the network is idle."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((count, 3, 5, 5), generator=generator) * 200
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width or height), mode="bilinear")
    return (smooth + torch.rand(smooth.shape, generator=generator) * 55).to(torch.uint8)


@torch.inference_mode()
def expected(network: FeatureExtractorInceptionV3, images: Tensor) -> dict[str, Tensor]:
    """The three layers of torch-fidelity's network; a hook reads the spatial one, which it does not offer."""
    seen: dict[str, Tensor] = {}
    hook = network.Mixed_6d.branch1x1.register_forward_hook(lambda _module, _input, out: seen.update(branch=out))
    pool, logits = network(images)
    hook.remove()
    spatial = seen["branch"][:, :7].permute(0, 2, 3, 1).reshape(len(images), 2023)
    return {"pool": pool, "spatial": spatial, "logits": logits}


def largest_differences(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, float]:
    assert ours.keys() == theirs.keys()
    for layer, features in theirs.items():
        assert features.std(dim=0).mean() > 1e-2, f"{layer} is degenerate and would prove nothing"
        assert ours[layer].shape == features.shape
    return {layer: float((ours[layer] - theirs[layer]).abs().max() / theirs[layer].std()) for layer in theirs}


@pytest.fixture(scope="module")
def network() -> FeatureExtractorInceptionV3:
    return random_inception()


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return write_random_inception(tmp_path_factory.mktemp("weights") / "random.pth")


@pytest.fixture(scope="module")
def extractor(weights):
    return load_extractor("adm-inception", extractor_files={"inception": weights})


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch):
    monkeypatch.delenv("ARVBENCH_INCEPTION", raising=False)


@pytest.mark.parametrize(
    ("height", "width"),
    [
        pytest.param(256, 256, marks=pytest.mark.slow),
        (64, 64),
        pytest.param(512, 512, marks=pytest.mark.slow),
        (299, 299),
        (48, 200),
    ],
)
def test_all_layers_are_those_of_torch_fidelitys_network(extractor, network, height, width):
    images = random_images(2, height, width)
    differences = largest_differences(extractor.extract(images), expected(network, images))
    assert max(differences.values()) < 1e-4, differences


def test_in_float64_the_graphs_are_the_same():
    """Only rounding remains in fp32: 29 more bits shrink it as they should. Images of 299 pixels need no resize."""
    images = random_images(2, IMAGE_PX)
    state = checked_tensors(random_inception_state(), source="test")
    with torch.inference_mode():
        ours = Inception(state, "cpu", dtype=torch.float64)((images.double() - 128) / 128)
    differences = largest_differences(ours, expected_in_float64(images))
    assert max(differences.values()) < 1e-10, differences


@torch.inference_mode()
def expected_in_float64(images: Tensor) -> dict[str, Tensor]:
    """The layers before torch-fidelity rounds its outputs to fp32, read by hooks."""
    network = random_inception().double()
    network.feature_extractor_internal_dtype = torch.float64  # its own option of this name has no effect
    seen: dict[str, Tensor] = {}
    network.AvgPool.register_forward_hook(lambda _module, _input, out: seen.update(pool=out.flatten(1)))
    network.Mixed_6d.branch1x1.register_forward_hook(lambda _module, _input, out: seen.update(branch=out))
    network(images)
    spatial = seen["branch"][:, :7].permute(0, 2, 3, 1).reshape(len(images), 2023)
    return {"pool": seen["pool"], "spatial": spatial, "logits": seen["pool"] @ network.fc.weight.T}


def test_extractor_describes_itself(extractor, weights):
    assert (extractor.name, extractor.layers, extractor.batch, extractor.image_px) == (
        "adm-inception",
        LAYERS,
        64,
        None,
    )
    assert extractor.sha256 == sha256_of(weights)
    assert "are not the published ones" in extractor.note
    for part in ("TensorFlow 1 bilinear", "299", "without antialiasing", "(x - 128) * 0.0078125", "fp32"):
        assert part in extractor.preprocessing


def test_only_the_requested_layers_are_returned_as_floats(extractor):
    out = extractor.extract(random_images(1, 32), ["spatial"])
    assert list(out) == ["spatial"]
    assert (out["spatial"].shape, out["spatial"].dtype) == ((1, 2023), torch.float32)


def test_an_image_does_not_see_its_batch(extractor):
    """On the CPU, world size and batch must not change a bit."""
    images = random_images(5, 40)
    together = extractor.extract(images)
    for start, stop in ((0, 1), (1, 4)):
        apart = extractor.extract(images[start:stop])
        assert [layer for layer in LAYERS if not torch.equal(apart[layer], together[layer][start:stop])] == []


def test_input_is_scaled_as_in_the_graph_and_images_are_left_alone():
    images = random_images(2, IMAGE_PX)
    before = images.clone()
    assert torch.equal(scaled(images), (images.float() - 128) / 128)
    assert torch.equal(images, before)


def test_features_are_in_the_order_of_pixels_then_channels(extractor, network):
    """NHWC as the evaluator flattens; channels first, the sFID of one port, is another vector."""
    images = random_images(1, 64)
    ours = extractor.extract(images)["spatial"].view(17, 17, 7)
    seen = []
    hook = network.Mixed_6d.branch1x1.register_forward_hook(lambda _module, _input, out: seen.append(out[0]))
    with torch.inference_mode():
        network(images)
    hook.remove()
    for y, x, channel in ((0, 0, 0), (3, 16, 6), (16, 2, 1)):
        assert ours[y, x, channel] == pytest.approx(float(seen[0][channel, y, x]), abs=1e-4)


def test_safetensors_hold_the_same_network(extractor, tmp_path):
    path = tmp_path / "inception.safetensors"
    save_file(random_inception_state(), path)
    images = random_images(1, 32)
    other = load_extractor("adm-inception", extractor_files={"inception": path})
    assert torch.equal(other.extract(images)["pool"], extractor.extract(images)["pool"])
    assert other.sha256 != extractor.sha256


def test_tensorflows_file_is_converted_in_memory(extractor, tmp_path, monkeypatch):
    path = tmp_path / "classify_image_graph_def.pb"
    path.write_bytes(b"a graph")
    monkeypatch.setattr(
        "arvbench.harness.quality.extractors.inception.tf_graph.read_graph",
        lambda file: random_inception_state() if file == path else pytest.fail("another file"),
    )
    images = random_images(1, 32)
    other = load_extractor("adm-inception", extractor_files={"inception": path})
    assert torch.equal(other.extract(images)["pool"], extractor.extract(images)["pool"])
    assert "converted from classify_image_graph_def.pb" in other.note
    assert other.sha256 == sha256_of(path)


def test_counters_of_batch_normalisation_may_be_in_the_file(tmp_path):
    counters = {
        name.replace("running_mean", "num_batches_tracked"): torch.tensor(0)
        for name in random_inception_state()
        if name.endswith("running_mean")
    }
    torch.save(random_inception_state() | counters, tmp_path / "trained.pth")
    load_extractor("adm-inception", extractor_files={"inception": tmp_path / "trained.pth"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("Mixed_7c.branch_pool.bn.bias"), r"1 missing \(Mixed_7c\.branch_pool\.bn\.bias\)"),
        (lambda state: state.update(extra=torch.zeros(1)), r"1 unexpected \(extra\)"),
        (lambda state: state.update({"fc.weight": torch.zeros(1000, 2048)}), r"fc\.weight \(1000, 2048\) instead of"),
        (lambda state: state.update({"fc.bias": torch.full((1008,), float("nan"))}), "NaN or infinity in fc.bias"),
    ],
)
def test_weights_of_another_network_are_refused_with_the_reason(tmp_path, change, message):
    state = dict(random_inception_state())
    change(state)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=message) as error:
        load_extractor("adm-inception", extractor_files={"inception": tmp_path / "other.pth"})
    assert "other.pth (inception weights)" in str(error.value)


def test_published_name_with_other_bytes_is_damaged(tmp_path):
    path = tmp_path / WEIGHTS["inception"].file_name
    torch.save({"fc.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(CheckpointError, match=r"is damaged: its sha256 is"):
        load_extractor("adm-inception", extractor_files={"inception": path})


def test_statistics_that_make_no_sense_show_in_the_features(tmp_path):
    state = dict(random_inception_state())
    state["Mixed_7c.branch1x1.bn.running_var"] = torch.full((320,), -1.0)
    torch.save(state, tmp_path / "nan.pth")
    extractor = load_extractor("adm-inception", extractor_files={"inception": tmp_path / "nan.pth"})
    with pytest.raises(CheckpointError, match="gave NaN or infinite features"):
        extractor.extract(random_images(2, 32))


def test_missing_weights_are_named_with_their_address(monkeypatch, tmp_path):
    monkeypatch.setenv("ARVBENCH_CACHE", str(tmp_path))
    for name in ("adm-inception", "fidelity-inception"):
        with pytest.raises(
            UserError, match=r"weights-inception-2015-12-05-6726825d\.pth from https://.*sha256 6726825d"
        ):
            load_extractor(name)


@pytest.mark.skipif(
    not os.environ.get("ARVBENCH_INCEPTION"), reason="ARVBENCH_INCEPTION names no file: the real weights are not here"
)
def test_the_real_weights_are_the_published_ones_and_give_torch_fidelitys_features():
    path = Path(os.environ["ARVBENCH_INCEPTION"]).expanduser()
    ours = load_extractor("adm-inception", extractor_files={"inception": path})
    theirs = load_extractor("fidelity-inception", extractor_files={"inception": path})
    if path.suffix != ".pb":
        assert sha256_of(path) == WEIGHTS["inception"].sha256
        assert ours.note == ""
    images = random_images(8, 256)
    found, expected_features = ours.extract(images), theirs.extract(images)
    assert all(features.isfinite().all() for features in found.values())
    pairs = {"pool": expected_features["2048"], "logits": expected_features["logits_unbiased"]}
    assert max(largest_differences({layer: found[layer] for layer in pairs}, pairs).values()) < 1e-3
