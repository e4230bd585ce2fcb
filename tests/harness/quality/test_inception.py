"""The Inception path runs torch-fidelity's network on a given file, and opens no file that could run code."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from arvbench.adapters.checkpoints import sha256_of
from arvbench.errors import CheckpointError, UserError
from arvbench.harness.quality import inception
from arvbench.harness.quality.extractors import load_extractor
from arvbench.harness.quality.metrics import SampleScheme, measure_quality
from arvbench.results.schema import QualityRequest

IMAGES = torch.randint(0, 256, (4, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def network() -> FeatureExtractorInceptionV3:
    """torch-fidelity's network with random weights that keep activations of order one."""
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        torch.manual_seed(0)
        # Construction insists on loading a file; there is none yet.
        patch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_, **__: None)
        built = FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"])
        for module in built.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
    return built


@pytest.fixture(scope="module")
def weights(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "random-inception.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(autouse=True)
def no_variable(monkeypatch):
    monkeypatch.delenv(inception.VARIABLE, raising=False)


def test_features_are_those_of_torch_fidelitys_network(network, weights):
    extractor = load_extractor("inception", inception_weights=weights)
    out = extractor.extract(IMAGES.split(3))
    with torch.no_grad():
        features, logits = network(IMAGES)
    assert features.std(dim=0).mean() > 1e-3, "a degenerate network would prove nothing"
    torch.testing.assert_close(out.features_ND, features, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(out.logits_NC, logits, rtol=1e-3, atol=1e-4)
    assert (extractor.dims, out.logits_NC.shape[1]) == (2048, 1008)
    assert extractor.sha256 == sha256_of(weights)
    assert "not the published ones" in extractor.note


def test_all_metrics_run_on_a_folder_and_the_variable_names_the_weights(weights, tmp_path, monkeypatch):
    from PIL import Image

    for index, image in enumerate(IMAGES.flip(3)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{index}.png")
    monkeypatch.setenv(inception.VARIABLE, str(weights))
    results = measure_quality(
        IMAGES,
        QualityRequest(extractor="inception", reference=str(tmp_path), images=4),
        scheme=SampleScheme(labels="none", uint8_rule="none"),
        labels_N=torch.zeros(4, dtype=torch.int64),
    )
    assert [result.metric for result in results] == ["fid", "isc", "kid", "precision", "recall"]
    assert all("not the published ones" in result.note for result in results)
    assert results[0].value > 0


def test_size_of_samples_is_part_of_the_id(weights):
    def identity(images):
        request = QualityRequest(extractor="inception", reference="unused", images=2, metrics=("isc",))
        scheme = SampleScheme(labels="none", uint8_rule="none")
        return measure_quality(images, request, scheme=scheme, inception_weights=weights)[0].protocol_id

    assert identity(IMAGES[:2]) != identity(IMAGES[:2, :, :20])


def test_without_weights_the_error_says_what_to_fetch_and_where_to_put_it():
    with pytest.raises(UserError) as error:
        load_extractor("inception")
    for part in (
        "weights-inception-2015-12-05-6726825d.pth",
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/",
        "--inception-weights",
        "ARVBENCH_INCEPTION",
    ):
        assert part in str(error.value)


def test_path_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no Inception weights at .*nowhere\.pth"):
        load_extractor("inception", inception_weights=tmp_path / "nowhere.pth")


def test_argument_wins_over_the_variable(weights, monkeypatch):
    monkeypatch.setenv(inception.VARIABLE, "/nowhere.pth")
    assert inception.find_weights(weights) == weights


def test_file_that_would_run_code_does_not(tmp_path):
    marker = tmp_path / "ran"

    class RunsCode:
        def __reduce__(self):
            return (marker.touch, ())

    path = tmp_path / "malicious.pth"
    path.write_bytes(pickle.dumps({"fc.weight": RunsCode()}, protocol=2))
    zipped = tmp_path / "zipped.pth"
    torch.save({"fc.weight": RunsCode()}, zipped)
    for file in (path, zipped):
        with pytest.raises(CheckpointError):
            load_extractor("inception", inception_weights=file)
    assert not marker.exists()
    torch.load(zipped, weights_only=False)
    assert marker.exists(), "the file is harmless, so the test shows nothing"


def test_torch_fidelity_unpickles_only_what_this_process_wrote(weights, monkeypatch):
    opened = []
    load = torch.load

    def recorded(source, *args, **options):
        opened.append((source, options.get("weights_only", True)))
        return load(source, *args, **options)

    monkeypatch.setattr(torch, "load", recorded)
    load_extractor("inception", inception_weights=weights)
    assert (weights, True) in opened
    assert all(weights_only for source, weights_only in opened if isinstance(source, str | Path))


def test_torchscript_archive_is_refused(tmp_path):
    path = tmp_path / "script.pth"
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(path))
    with pytest.raises(CheckpointError):
        load_extractor("inception", inception_weights=path)


def test_weights_of_another_network_are_refused_with_the_reason(tmp_path):
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth is not weights-inception.*Missing key"):
        load_extractor("inception", inception_weights=tmp_path / "other.pth")


def test_published_name_with_other_bytes_is_refused(tmp_path):
    path = tmp_path / inception.FILE_NAME
    torch.save({"fc.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(CheckpointError, match="its name promises 6726825d"):
        load_extractor("inception", inception_weights=path)


def test_nan_in_weights_is_named(network, tmp_path):
    damaged = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    damaged["Mixed_7c.branch1x1.conv.weight"][0] = float("nan")
    torch.save(damaged, tmp_path / "nan.pth")
    extractor = load_extractor("inception", inception_weights=tmp_path / "nan.pth")
    with pytest.raises(CheckpointError, match="'inception' gave NaN or infinite features for 2 of 2 images"):
        extractor.extract([IMAGES[:2]])
