"""Protocol `adm-v1` from files to numbers, against a pipeline that shares no code with it.

The independent side: torch-fidelity's network with a hook on the spatial layer, singular values of centred features in
NumPy, the inception score's formula, all pairs of distances. Run with -s to see every difference.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kept_extractors import KeptPass
from PIL import Image
from random_inception import random_inception, write_random_inception
from scipy.spatial.distance import cdist

from arvbench.errors import UserError
from arvbench.harness.quality.evaluation import EvaluationRequest, evaluate
from arvbench.harness.quality.images.open import open_images
from arvbench.harness.quality.protocols import Options

SAMPLES, REFERENCES, PX = 6, 6, 48
"""Too few samples for an interval, which would take a root of 2,048 dimensions."""
DIMS = 256
"""Numbers of a layer whose covariance has a root taken, but for the slow tests; the extractor's tests see all."""
OPTIONS = Options(bootstrap=0)


def pictures(count: int, seed: int) -> np.ndarray:
    """uint8 (N, H, W, 3) with structure at several scales, so that features differ between images."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(count, 6, 6, 3)).repeat(8, axis=1).repeat(8, axis=2)
    fine = rng.normal(size=(count, PX, PX, 3))
    return np.clip(127 + 60 * coarse + 25 * fine, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Samples as PNG files, the same as .npz, a reference as .npz of images, and weights."""
    root = tmp_path_factory.mktemp("adm")
    samples, reference = pictures(SAMPLES, 0), pictures(REFERENCES, 1)
    (root / "png").mkdir()
    for index, image in enumerate(samples):
        Image.fromarray(image).save(root / "png" / f"{index:04d}.png")
    np.savez(root / "samples.npz", arr_0=samples)
    np.savez(root / "reference.npz", arr_0=reference)
    write_random_inception(root / "inception.pth")
    return root


@pytest.fixture(scope="module", params=[DIMS, pytest.param(2048, marks=pytest.mark.slow)])
def dims(request) -> int:
    return request.param


@pytest.fixture(scope="module")
def features(folder, dims) -> KeptPass:
    return KeptPass(extractor_files={"inception": folder / "inception.pth"}, dims=dims, cut=("pool", "spatial", "2048"))


@pytest.fixture(scope="module")
def measured(folder, features):
    evaluation = evaluate(
        open_images(folder / "png"),
        EvaluationRequest(
            protocols=("adm-v1",),
            reference=str(folder / "reference.npz"),
            metrics=("fid", "sfid", "is", "is-shuffled", "precision", "recall", "precision-fp32", "recall-fp32"),
            options=OPTIONS,
        ),
        features=features,
    )
    return {number.metric: number for number in evaluation.numbers}


@pytest.fixture(scope="module")
def independent(folder, dims):
    """Features of both sides under torch-fidelity's network: pool (N, 2048), spatial (N, 2023), logits (N, 1008).

    Of pool and spatial, as many as are measured.
    """
    network, caught = random_inception(), []
    network.Mixed_6d.branch1x1.register_forward_hook(lambda _m, _i, out: caught.append(out))

    def features(images_NHW3: np.ndarray) -> dict[str, np.ndarray]:
        caught.clear()
        with torch.no_grad():
            pool, logits = network(torch.from_numpy(images_NHW3).permute(0, 3, 1, 2))
        spatial = np.stack([maps[:7].transpose(1, 2, 0).reshape(-1) for maps in caught[0].numpy()])
        return {"pool": pool.numpy()[:, :dims], "spatial": spatial[:, :dims], "logits": logits.numpy()}

    return features(pictures(SAMPLES, 0)), features(pictures(REFERENCES, 1))


def frechet_of_factors(x: np.ndarray, y: np.ndarray) -> float:
    """Frechet distance by singular values of the centred features: exact for fewer images than dimensions."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    a, b = (f - f.mean(axis=0) for f in (x, y))
    root = np.linalg.svd(a @ b.T / np.sqrt((len(a) - 1) * (len(b) - 1)), compute_uv=False).sum()
    mean = x.mean(axis=0) - y.mean(axis=0)
    return float(mean @ mean + (a**2).sum() / (len(a) - 1) + (b**2).sum() / (len(b) - 1) - 2 * root)


def inception_score(logits: np.ndarray, size: int) -> float:
    scores = []
    for start in range(0, len(logits), size):
        part = logits[start : start + size].astype(np.float64)
        p = np.exp(part - part.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        scores.append(np.exp((p * (np.log(p) - np.log(p.mean(axis=0)))).sum(axis=1).mean()))
    return float(np.mean(scores))


def manifold(samples: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """Precision and recall, k = 3, from all pairs in float64."""
    samples, reference = samples.astype(np.float64), reference.astype(np.float64)
    across = cdist(samples, reference, "sqeuclidean")
    radius_r = np.partition(cdist(reference, reference, "sqeuclidean"), 3, axis=1)[:, 3]
    radius_s = np.partition(cdist(samples, samples, "sqeuclidean"), 3, axis=1)[:, 3]
    precision, recall = np.less_equal(across, radius_r), np.less_equal(across.T, radius_s)
    return precision.any(axis=1).mean(), recall.any(axis=1).mean()


def test_every_metric_equals_the_independent_pipeline(measured, independent):
    samples, reference = independent
    assert samples["pool"].std(axis=0).mean() > 1e-3, "a degenerate network would prove nothing"
    precision, recall = manifold(samples["pool"], reference["pool"])
    expected = {
        "fid": (frechet_of_factors(samples["pool"], reference["pool"]), 1e-4),
        "sfid": (frechet_of_factors(samples["spatial"], reference["spatial"]), 1e-4),
        "is": (inception_score(samples["logits"], 5000), 1e-5),
        "precision-fp32": (precision, 1e-12),
        "recall-fp32": (recall, 1e-12),
    }
    for metric, (value, allowed) in expected.items():
        got = measured[metric].value
        print(f"{metric:16} adm-v1 {got:.9g}  independent {value:.9g}  relative difference {abs(got / value - 1):.2e}")
        assert got == pytest.approx(value, rel=allowed), metric
    # One split: the order cannot matter.
    assert measured["is-shuffled"].value == pytest.approx(measured["is"].value, rel=1e-12)
    for metric in ("precision", "recall"):
        assert abs(measured[metric].value - measured[f"{metric}-fp32"].value) <= 2 / SAMPLES


def test_npz_png_and_safetensors_give_the_same_numbers_and_ids(folder, features, measured):
    from arvbench.harness.quality.images.write import write_safetensors

    write_safetensors(folder / "samples.safetensors", open_images(folder / "png"))
    for name in ("samples.npz", "samples.safetensors"):
        again = evaluate(
            open_images(folder / name),
            EvaluationRequest(protocols=("adm-v1",), metrics=("is",), options=OPTIONS),
            features=features,
        )
        assert again.numbers[0].value == measured["is"].value
        assert again.numbers[0].protocol_id == measured["is"].protocol_id


def test_one_pass_over_the_images_serves_all_protocols(folder, features, measured, monkeypatch):
    source = open_images(folder / "png")
    reads = []
    real = source.read
    monkeypatch.setattr(source, "read", lambda start, stop: reads.append((start, stop)) or real(start, stop))
    evaluation = evaluate(
        source,
        EvaluationRequest(
            protocols=("adm-v1", "torch-fidelity", "prdc"),
            metrics=("precision-fp32", "precision", "kid", "coverage"),
            reference=str(folder / "reference.npz"),
            options=OPTIONS,
        ),
        features=features,
    )
    assert reads == [(0, SAMPLES)]
    by_name = {(number.protocol.partition(":")[0], number.metric): number for number in evaluation.numbers}
    assert list(by_name) == [
        *(("adm-v1", "precision"), ("adm-v1", "precision-fp32"), ("torch-fidelity", "kid")),
        *(("torch-fidelity", "precision"), ("prdc", "precision"), ("prdc", "coverage")),
    ]
    assert by_name["adm-v1", "precision-fp32"].value == measured["precision-fp32"].value
    assert by_name["torch-fidelity", "precision"].value == pytest.approx(measured["precision-fp32"].value, abs=1e-6)
    ids = [number.protocol_id for number in evaluation.numbers]
    assert len(set(ids)) == len(ids)


@pytest.mark.slow
def test_fid_is_that_of_torch_fidelity_on_the_same_files(folder, features, measured):
    """Two networks with the same weights, and two ways to the same distance."""
    (number,) = evaluate(
        open_images(folder / "png"),
        EvaluationRequest(
            protocols=("torch-fidelity",), metrics=("fid",), reference=str(folder / "reference.npz"), options=OPTIONS
        ),
        features=features,
    ).numbers
    assert number.value == pytest.approx(measured["fid"].value, rel=1e-3)


def test_bad_requests_are_refused_before_any_work(folder):
    samples = open_images(folder / "png")
    weights = KeptPass(extractor_files={"inception": folder / "inception.pth"})

    def ask(match: str, **asked) -> None:
        with pytest.raises(UserError, match=match):
            evaluate(samples, EvaluationRequest(**({"protocols": ("adm-v1",)} | asked)), features=weights)

    ask("no protocol 'adm-v2'; did you mean 'adm-v1'", protocols=("adm-v2",))
    ask("no metric of adm-v1 'fod'; did you mean 'fid'", metrics=("fod",))
    ask("compares the samples with a reference: name one with --reference", metrics=("fid",))
    ask("protocol torch-fidelity has none of the metrics", protocols=("adm-v1", "torch-fidelity"), metrics=("sfid",))
    ask("fid-infinity of adm-v1: it needs at least", metrics=("fid-infinity",), reference=str(folder / "reference.npz"))
    with pytest.raises(UserError, match=r"weights-inception-2015-12-05-6726825d\.pth"):
        evaluate(samples, EvaluationRequest(protocols=("adm-v1",), metrics=("is",)), features=KeptPass())
