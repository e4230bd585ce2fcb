"""torch-fidelity against a file of statistics: a protocol of its own, with the library's numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from kept_extractors import KeptPass
from random_inception import write_random_inception

from arvbench.errors import UserError
from arvbench.harness.quality.evaluation import EvaluationRequest, evaluate
from arvbench.harness.quality.extractors import load_extractor
from arvbench.harness.quality.features.feature_pass import FeaturePass
from arvbench.harness.quality.images.tensors import TensorSource
from arvbench.harness.quality.metrics.as_torch_fidelity import gaussian_fit
from arvbench.harness.quality.metrics.frechet import frechet_distance
from arvbench.harness.quality.metrics.moments import Moments
from arvbench.harness.quality.protocols.protocol import PROTOCOLS, Options
from arvbench.harness.quality.reference.make import needs_of
from arvbench.harness.quality.reference.statistics import ADM_LAYERS

NAME = "torch-fidelity-adm"
DIMS = 64
"""Numbers of a layer: the root of 2,048 dimensions takes half a minute."""
IMAGES = torch.randint(0, 256, (12, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
SOURCE = TensorSource(IMAGES, name="some")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return write_random_inception(tmp_path_factory.mktemp("weights") / "random.pth")


@pytest.fixture(scope="module")
def features(weights) -> Iterator[KeptPass]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ADM_LAYERS, "pool", ("mu", "sigma", DIMS))
        yield KeptPass(extractor_files={"inception": weights}, dims=DIMS)


def write_statistics(folder: Path, dims: int) -> Path:
    """A made-up file like `adm_in256_stats.npz`: mean and covariance alone, with a variance in every direction."""
    random = np.random.default_rng(0)
    rows = random.normal(size=(40, dims)) * 0.1
    path = folder / "stats.npz"
    np.savez(path, mu=rows.mean(axis=0), sigma=np.cov(rows, rowvar=False) + 1e-3 * np.eye(dims))
    return path


@pytest.fixture(scope="module")
def statistics(tmp_path_factory) -> Path:
    return write_statistics(tmp_path_factory.mktemp("statistics"), DIMS)


def numbers(features: FeaturePass, reference: object, *protocols: str, metrics: tuple[str, ...] = ()):
    request = EvaluationRequest(
        protocols=protocols, reference=str(reference), metrics=metrics, options=Options(bootstrap=0)
    )
    return {(n.protocol_name, n.metric): n for n in evaluate(SOURCE, request, features=features).numbers}


@pytest.fixture(scope="module")
def found(features, statistics):
    """Both protocols in one evaluation."""
    return numbers(features, statistics, NAME, "adm-v1", metrics=("fid", "is"))


def librarys_own(features: FeaturePass, statistics: Path) -> tuple[float, float]:
    """FID and inception score, from the library's features and the stored moments."""
    from torch_fidelity.metric_isc import isc_features_to_metric

    out = features.extractor("fidelity-inception-adm").extract(IMAGES)
    samples = gaussian_fit(out["pool"])
    generated = Moments(
        count=len(IMAGES),
        mean_D=torch.from_numpy(samples.mean).double(),
        cov_DD=torch.from_numpy(samples.covariance),
    )
    stored = {key: torch.from_numpy(values) for key, values in np.load(statistics).items()}
    reference = Moments(count=None, mean_D=stored["mu"].float().double(), cov_DD=stored["sigma"])
    score = isc_features_to_metric(out["logits_unbiased"], splits=10, shuffle=True, rng_seed=2020)
    return frechet_distance(generated, reference).value, score["inception_score_mean"]


def test_the_numbers_are_the_librarys_own_against_the_stored_moments(features, statistics, found):
    distance, score = librarys_own(features, statistics)
    assert found[NAME, "fid"].value == pytest.approx(distance, rel=1e-6) and distance > 0
    assert found[NAME, "is"].value == score
    assert found[NAME, "fid"].detail["computed_by"] == "the library"


def test_its_extractor_is_the_librarys_under_other_names_of_layers(features):
    ours, theirs = (features.extractor(f"fidelity-inception{name}").extract(IMAGES[:2]) for name in ("-adm", ""))
    for layer, name in (("pool", "2048"), ("logits_unbiased", "logits_unbiased")):
        torch.testing.assert_close(ours[layer], theirs[name], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_distance_of_whole_layers_is_the_librarys_own(weights, tmp_path, monkeypatch):
    monkeypatch.setitem(ADM_LAYERS, "pool", ("mu", "sigma", 2048))
    features, path = KeptPass(extractor_files={"inception": weights}), write_statistics(tmp_path, 2048)
    found = numbers(features, path, NAME, "adm-v1", metrics=("fid",))
    distance, _ = librarys_own(features, path)
    assert found[NAME, "fid"].value == pytest.approx(distance, rel=1e-6)
    assert found["adm-v1", "fid"].value == pytest.approx(distance, rel=1e-2)


def test_its_ids_are_its_own(found):
    assert {protocol for protocol, _ in found} == {NAME, "adm-v1"}
    ids = [number.protocol_id for number in found.values()]
    assert len(set(ids)) == len(ids) == 4
    # The same statistics, another implementation of the network.
    assert found[NAME, "fid"].value == pytest.approx(found["adm-v1", "fid"].value, rel=1e-2)


@pytest.mark.parametrize("reference", ["digits", "images.npz"])
def test_images_are_no_reference_of_it(features, tmp_path, reference):
    np.savez(tmp_path / "images.npz", arr_0=IMAGES.permute(0, 2, 3, 1).numpy())
    path = reference if reference == "digits" else tmp_path / reference
    with pytest.raises(UserError, match=f"^{NAME} compares with published statistics") as refused:
        numbers(features, path, NAME)
    assert "\n" not in str(refused.value) and str(path) in str(refused.value)


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ({"mu": np.zeros(DIMS)}, "has mu without its partner"),
        ({"mu": np.zeros(48), "sigma": np.eye(48)}, r"mu has shape \(48,\), expected \(64,\)"),
        ({"mu": np.full(DIMS, np.nan), "sigma": np.eye(DIMS)}, "mu holds NaN or infinite values"),
        ({"mu": np.zeros(DIMS), "sigma": np.triu(np.ones((DIMS, DIMS)))}, "sigma is not symmetric"),
        ({"mu": np.zeros(DIMS, dtype=np.int64), "sigma": np.eye(DIMS)}, "mu is int64, expected float32 or float64"),
        ({"moments/other/layer/mean": np.zeros(3), "moments/other/layer/cov": np.eye(3)}, "has no statistics of"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(features, tmp_path, arrays, text):
    np.savez(tmp_path / "stats.npz", **arrays)
    with pytest.raises(UserError, match=text) as refused:
        numbers(features, tmp_path / "stats.npz", NAME)
    assert "stats.npz" in str(refused.value) and "\n" not in str(refused.value)


def test_a_file_of_its_own_is_not_made():
    with pytest.raises(UserError, match=f"protocol {NAME} compares with published statistics: make those of adm-v1"):
        needs_of([NAME], lambda name: load_extractor(name))


def test_its_layers_are_those_of_its_extractor(features):
    layers = features.extractor(PROTOCOLS[NAME].extractor).layers
    assert {metric.layer for metric in PROTOCOLS[NAME].metrics} <= set(layers)
