"""torch-fidelity against a file of statistics: a protocol of its own, with the library's numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
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

NAME = "torch-fidelity-adm"
IMAGES = torch.randint(0, 256, (12, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
SOURCE = TensorSource(IMAGES, name="some")


@pytest.fixture(scope="module")
def features(tmp_path_factory) -> FeaturePass:
    weights = write_random_inception(tmp_path_factory.mktemp("weights") / "random.pth")
    return FeaturePass(extractor_files={"inception": weights})


@pytest.fixture(scope="module")
def statistics(tmp_path_factory) -> Path:
    """A made-up file like `adm_in256_stats.npz`: mean and covariance alone, with a variance in every direction."""
    random = np.random.default_rng(0)
    rows = random.normal(size=(40, 2048)) * 0.1
    path = tmp_path_factory.mktemp("statistics") / "stats.npz"
    np.savez(path, mu=rows.mean(axis=0), sigma=np.cov(rows, rowvar=False) + 1e-3 * np.eye(2048))
    return path


def numbers(features: FeaturePass, reference: object, *protocols: str, metrics: tuple[str, ...] = ()):
    request = EvaluationRequest(
        protocols=protocols, reference=str(reference), metrics=metrics, options=Options(bootstrap=0)
    )
    return {(n.protocol_name, n.metric): n for n in evaluate(SOURCE, request, features=features).numbers}


@pytest.fixture(scope="module")
def found(features, statistics):
    """Both protocols in one evaluation: the root of 2,048 dimensions takes seconds."""
    return numbers(features, statistics, NAME, "adm-v1", metrics=("fid", "is"))


def test_the_numbers_are_the_librarys_own_against_the_stored_moments(features, statistics, found):
    from torch_fidelity.metric_isc import isc_features_to_metric

    out = features.extractor("fidelity-inception").extract(IMAGES)
    samples = gaussian_fit(out["2048"])
    generated = Moments(
        count=len(IMAGES),
        mean_D=torch.from_numpy(samples.mean).double(),
        cov_DD=torch.from_numpy(samples.covariance),
    )
    stored = {key: torch.from_numpy(values) for key, values in np.load(statistics).items()}
    reference = Moments(count=None, mean_D=stored["mu"].float().double(), cov_DD=stored["sigma"])
    expected = frechet_distance(generated, reference).value
    assert found[NAME, "fid"].value == pytest.approx(expected, rel=1e-6) and expected > 0
    score = isc_features_to_metric(out["logits_unbiased"], splits=10, shuffle=True, rng_seed=2020)
    assert found[NAME, "is"].value == score["inception_score_mean"]
    assert found[NAME, "fid"].detail["computed_by"] == "the library"


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
        ({"mu": np.zeros(2048)}, "has mu without its partner"),
        ({"mu": np.zeros(64), "sigma": np.eye(64)}, r"mu has shape \(64,\), expected \(2048,\)"),
        ({"mu": np.full(2048, np.nan), "sigma": np.eye(2048)}, "mu holds NaN or infinite values"),
        ({"mu": np.zeros(2048), "sigma": np.triu(np.ones((2048, 2048)))}, "sigma is not symmetric"),
        ({"mu": np.zeros(2048, dtype=np.int64), "sigma": np.eye(2048)}, "mu is int64, expected float32 or float64"),
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
