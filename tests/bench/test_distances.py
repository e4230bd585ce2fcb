"""Times of the distances between sets of features: `pytest tests/bench/test_distances.py --benchmark-enable`.

Enabled, there are 5,000 images on each side, and 1,024 features; with `-m slow` sizes are those of an evaluation on
ImageNet: 2,048 features, 50,000 samples, 10,000 reference images. Disabled, every benchmark runs once on small sizes.
Nothing is timed before it has agreed with its judge. All cores are used, but where a group says CPU s: one.

Bars     Frechet distance 40 times as fast as scipy's sqrtm at 2,048 features, never slower than numpy's eigenvalues;
         precision and recall in 2 GiB beside the features, and no distance slower than its peer
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import scipy
import scipy.linalg
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor
from turns import in_turn

from arvbench.harness.machine.memory import ProcessMemoryProbe
from arvbench.harness.quality.metrics.frechet import ReferenceRoot, frechet_distance, frechet_of_features
from arvbench.harness.quality.metrics.frechet_infinity import frechet_at_infinity
from arvbench.harness.quality.metrics.frechet_spread import bootstrap_frechet, jackknife_frechet
from arvbench.harness.quality.metrics.kid import kid
from arvbench.harness.quality.metrics.mmd import cmmd
from arvbench.harness.quality.metrics.moments import Moments, moments_of
from arvbench.harness.quality.metrics.neighbours import Arithmetic, Distances, density_coverage, precision_recall


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    dims: int
    scipy_dims: int
    """Dimensions where scipy's root is the peer, which takes minutes at 2,048."""
    samples: int
    reference: int
    embedding: int
    """Dimensions of CMMD's embeddings."""
    per_class: int
    """Samples of one class."""


SOME = Sizes(dims=1024, scipy_dims=256, samples=5000, reference=5000, embedding=768, per_class=50)
IMAGENET = Sizes(dims=2048, scipy_dims=2048, samples=50_000, reference=10_000, embedding=768, per_class=50)
DISABLED = Sizes(dims=32, scipy_dims=32, samples=200, reference=150, embedding=16, per_class=12)


@pytest.fixture
def enabled(benchmark) -> bool:
    return benchmark.enabled


@pytest.fixture(params=[pytest.param(SOME, id="some"), pytest.param(IMAGENET, id="imagenet", marks=pytest.mark.slow)])
def sizes(request, enabled) -> Sizes:
    return request.param if enabled else DISABLED


@pytest.fixture(autouse=True)
def _all_cores(_threads_as_before) -> Iterator[None]:
    """Use all cores, as the compared libraries do."""
    torch.set_num_threads(os.cpu_count() or 1)
    yield


@pytest.fixture(autouse=True)
def _machine(benchmark) -> None:
    benchmark.extra_info["threads"] = torch.get_num_threads()


def features(count: int, dims: int, seed: int) -> Tensor:
    """Like Inception's: not negative, few directions with most of the variance, |x|^2 about 300 at 2048 dimensions."""
    generator = torch.Generator().manual_seed(seed)
    scales_D = torch.linspace(0, -3, dims).exp() * 0.6
    out_ND = torch.empty(count, dims)
    for rows_BD in out_ND.split(4096):
        rows_BD.copy_((torch.randn(rows_BD.shape, generator=generator) * scales_D + 0.3).abs_())
    return out_ND


def gaussian(dims: int, seed: int) -> Moments:
    return moments_of(features(3 * dims, dims, seed).split(2048))


def once(benchmark, call, rounds: int = 1):
    return benchmark.pedantic(call, rounds=rounds, iterations=1, warmup_rounds=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A pair of moments with its distance by scipy's root of the product, and scipy's time."""

    samples: Moments
    reference: Moments
    value: float
    scipy_s: float


@pytest.fixture(scope="module")
def judged_pairs() -> dict[tuple[str, int], Judged]:
    """Filled by the first benchmark that needs a pair: scipy takes up to half a minute at 2048 dimensions."""
    return {}


def judge(images: str, dims: int, known: dict[tuple[str, int], Judged]) -> Judged:
    """Full rank on both sides, or fewer samples than dimensions, where the root becomes complex."""
    if (images, dims) not in known:
        count = 3 * dims if images == "many images" else dims // 2
        samples = moments_of(features(count, dims, 1).split(2048))
        reference = moments_of(features(3 * dims, dims, 2).split(2048))
        mean = (samples.mean_D - reference.mean_D).numpy()
        one, other = samples.cov_DD.numpy(), reference.cov_DD.numpy()
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a product that is singular
            root = scipy.linalg.sqrtm(one @ other)
        value = float(mean @ mean + np.trace(one) + np.trace(other) - 2 * np.trace(root).real)
        scipy_s = time.perf_counter() - start
        known[images, dims] = Judged(samples=samples, reference=reference, value=value, scipy_s=scipy_s)
    return known[images, dims]


@pytest.mark.parametrize("root", ["cached root", "root computed"])
@pytest.mark.parametrize("images", ["many images", "few images"])
def test_frechet_distance_against_scipys_root(benchmark, enabled, sizes, judged_pairs, images, root):
    benchmark.group = f"Frechet distance, {images}"
    judged = judge(images, sizes.scipy_dims, judged_pairs)
    samples, reference = judged.samples, judged.reference
    to = ReferenceRoot.of(reference) if root == "cached root" else reference
    terms = float(samples.cov_DD.trace() + reference.cov_DD.trace())
    difference = abs(frechet_distance(samples, to).value - judged.value) / terms
    assert difference <= (1e-12 if images == "many images" else 1e-6)
    once(benchmark, lambda: frechet_distance(samples, to), rounds=7)
    benchmark.extra_info |= {"scipy": scipy.__version__, "difference_over_traces": difference}
    if enabled:
        ratio = judged.scipy_s / benchmark.stats.stats.median
        benchmark.extra_info |= {"scipy_s": round(judged.scipy_s, 2), "times_as_fast_as_scipy": round(ratio, 1)}
        benchmark.extra_info["bar"] = ">= 40 at 2,048 features"


def by_eigenvalues_of_the_product(samples: Moments, reference: Moments) -> float:
    """The distance in NumPy, as torch-fidelity computes it."""
    shift, one, other = (samples.mean_D - reference.mean_D).numpy(), samples.cov_DD.numpy(), reference.cov_DD.numpy()
    root_trace = np.sqrt(np.linalg.eigvals(one @ other).astype(complex)).real.sum()
    return float(shift @ shift + np.trace(one) + np.trace(other) - 2 * root_trace)


@pytest.mark.parametrize("root", ["cached root", "root computed"])
@pytest.mark.parametrize("dims", [64, 256, 1024, pytest.param(2048, marks=pytest.mark.slow)])
def test_frechet_distance_against_numpys_eigenvalues(benchmark, enabled, dims, root):
    """64 is the fewest dimensions of any extractor."""
    benchmark.group = "Frechet distance, peer: numpy's eigenvalues, CPU s"
    dims = dims if enabled else 16
    samples, reference = gaussian(dims, 1), gaussian(dims, 2)
    to = ReferenceRoot.of(reference) if root == "cached root" else reference
    expected = by_eigenvalues_of_the_product(samples, reference)
    assert frechet_distance(samples, to).value == pytest.approx(expected, rel=1e-9)
    calls = max(1, 512**2 // dims**2)
    torch.set_num_threads(1)
    with threadpool_limits(1):
        in_turn(
            benchmark,
            lambda: [frechet_distance(samples, to) for _ in range(calls)],
            lambda: [by_eigenvalues_of_the_product(samples, reference) for _ in range(calls)],
            bar=">= 1",
        )
    benchmark.extra_info |= {"dims": dims, "calls": calls, "threads": 1}


@pytest.mark.parametrize("way", ["features", "moments"])
def test_frechet_distance_of_one_class(benchmark, sizes, way):
    """Both sides have fewer images than dimensions: singular values of a small matrix, or the (D, D) way."""
    benchmark.group = "Frechet distance of one class"
    x_ND = features(sizes.per_class, sizes.dims, 1)
    y_MD = features(min(1300, sizes.dims - 1), sizes.dims, 2)
    by_features = frechet_of_features(x_ND, y_MD).value
    by_moments = frechet_distance(moments_of([x_ND]), moments_of([y_MD])).value
    assert by_features == pytest.approx(by_moments, rel=1e-5)
    benchmark.extra_info["relative_difference"] = abs(by_features / by_moments - 1)
    if way == "features":
        once(benchmark, lambda: frechet_of_features(x_ND, y_MD), rounds=3)
    else:
        once(benchmark, lambda: frechet_distance(moments_of([x_ND]), moments_of([y_MD])))


def compared(benchmark, name, peer_s, bar=">= 1"):
    """Note the time of a peer in the same run, relative to the fastest of ours; nothing where timing is off."""
    if benchmark.stats is not None:
        benchmark.extra_info |= {name: round(peer_s / benchmark.stats.stats.min, 2), "bar": bar}


def seconds(call) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def test_root_of_a_reference(benchmark, sizes):
    """A Cholesky factor, against the eigenvectors that a matrix without one needs."""
    benchmark.group = "root of a reference"
    moments = gaussian(sizes.dims, 2)
    begin = time.perf_counter()
    torch.linalg.eigh(moments.cov_DD)
    peer_s = time.perf_counter() - begin
    root = once(benchmark, lambda: ReferenceRoot.of(moments), rounds=3)
    assert torch.allclose(root.root_DD.T @ root.root_DD, moments.cov_DD, rtol=1e-9, atol=1e-9)
    compared(benchmark, "times_as_fast_as_eigenvectors", peer_s)


def test_jackknife(benchmark, sizes):
    """The interval of a distance, against 100 replicates of a bootstrap, whose time is scaled from that of two."""
    benchmark.group = "interval of FD"
    x_ND, root = features(sizes.samples, sizes.dims, 1), ReferenceRoot.of(gaussian(sizes.dims, 2))
    begin = time.perf_counter()
    bootstrap_frechet(x_ND, root, 2)
    two_s = time.perf_counter() - begin
    spread = once(benchmark, lambda: jackknife_frechet(x_ND, root))
    assert spread is not None and spread.std > 0
    compared(benchmark, "times_as_fast_as_100_replicates", 101 / 3 * two_s)


def test_kid_from_whole_matrices(benchmark, sizes):
    """Equal to torch-fidelity's number, which makes three kernel matrices for each of 100 subsets."""
    from torch_fidelity.metric_kid import kid_features_to_metric

    benchmark.group = "KID"
    x_ND, y_MD = (features(1000, 64, seed).double() for seed in (1, 2))
    begin = time.perf_counter()
    theirs = kid_features_to_metric(x_ND, y_MD, kid_subsets=100, kid_subset_size=500, rng_seed=2020, verbose=False)
    peer_s = time.perf_counter() - begin
    ours = once(benchmark, lambda: kid(x_ND, y_MD, subsets=100, size=500, seed=2020), rounds=3)
    assert ours.mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-10)
    compared(benchmark, "times_as_fast_as_torch_fidelity", peer_s)


def test_bootstrap(benchmark, sizes):
    """Two replicates; the whole of an interval is 100 of them after one projection."""
    benchmark.group = "interval of FD"
    x_ND = features(sizes.samples, sizes.dims, 1)
    root = ReferenceRoot.of(gaussian(sizes.dims, 2))
    value = frechet_distance(moments_of(x_ND.split(4096)), root).value
    benchmark.extra_info |= {"samples": sizes.samples, "replicates": 2}
    (low, high), *_ = once(benchmark, lambda: bootstrap_frechet(x_ND, root, 2))
    assert low < value < high


def test_extrapolation(benchmark, sizes):
    benchmark.group = "FD at infinity"
    x_ND = features(sizes.samples, sizes.dims, 1)
    root = ReferenceRoot.of(gaussian(sizes.dims, 2))
    benchmark.extra_info["samples"] = sizes.samples
    found = once(benchmark, lambda: frechet_at_infinity(x_ND, root))
    assert found.distances[-1] == pytest.approx(frechet_distance(moments_of(x_ND.split(4096)), root).value, rel=1e-9)


def with_peak(benchmark, call):
    """Run and time `call` once; note the peak of the process above its memory before."""
    probe = ProcessMemoryProbe()
    probe.release_unused()
    probe.begin_phase()
    before = probe.in_use_bytes()
    result = once(benchmark, call)
    peak = probe.peak_bytes()
    if before is not None and peak is not None:
        benchmark.extra_info["peak_above_features_gib"] = round((peak - before) / 2**30, 3)
    return result


def two_sets(sizes: Sizes, dims: int) -> tuple[Tensor, Tensor]:
    return features(sizes.samples, dims, 1), features(sizes.reference, dims, 2)


def by_cdist(x_ND: Tensor, y_MD: Tensor, k: int) -> dict[str, float]:
    """Everything in float64, all pairs at once."""
    x_ND, y_MD = x_ND.double(), y_MD.double()
    radii_N, radii_M = (torch.cdist(z, z).kthvalue(k + 1).values for z in (x_ND, y_MD))
    between_MN = torch.cdist(y_MD, x_ND)
    inside_MN = between_MN <= radii_M[:, None]
    return {
        "precision": float(inside_MN.any(dim=0).double().mean()),
        "recall": float((between_MN <= radii_N).any(dim=1).double().mean()),
        "density": float(inside_MN.sum(dim=0).double().mean()) / k,
        "coverage": float(inside_MN.any(dim=1).double().mean()),
    }


def by_torch_fidelity(x_ND: Tensor, y_MD: Tensor) -> None:
    from torch_fidelity.metric_prc import prc_features_to_metric

    prc_features_to_metric(x_ND, y_MD, prc_neighborhood=3, prc_batch_size=10_000, save_cpu_ram=True, verbose=False)


def by_prdc(x_ND: Tensor, y_MD: Tensor) -> float:
    """Density as the prdc package computes it: scikit-learn's distances, whole matrices."""
    from sklearn.metrics import pairwise_distances

    x, y = x_ND.numpy(), y_MD.numpy()
    radii_y, radii_x = (np.partition(pairwise_distances(z, z), 5, axis=1)[:, 5] for z in (y, x))
    between = pairwise_distances(y, x)
    assert (between < radii_x).any(axis=1).mean() <= 1
    return (between < radii_y[:, None]).sum(axis=0).mean() / 5


@pytest.mark.parametrize("arithmetic", ["fp16-blocks", "fp32"])
def test_precision_recall(benchmark, sizes, arithmetic: Arithmetic):
    benchmark.group = "precision and recall"
    x_ND, y_MD = two_sets(sizes, sizes.dims)
    few = min(2000, sizes.reference)
    judged = by_cdist(x_ND[:few], y_MD[:few], 3)
    found = precision_recall(x_ND[:few], y_MD[:few], distances=Distances(arithmetic))
    tolerance = 0.02 if arithmetic == "fp16-blocks" else 2 / few
    assert found.precision == pytest.approx(judged["precision"], abs=tolerance)
    assert found.recall == pytest.approx(judged["recall"], abs=tolerance)
    benchmark.extra_info |= {"samples": sizes.samples, "reference": sizes.reference}
    peer_s = seconds(lambda: by_torch_fidelity(x_ND, y_MD))
    with_peak(benchmark, lambda: precision_recall(x_ND, y_MD, distances=Distances(arithmetic)))
    compared(benchmark, "times_as_fast_as_torch_fidelity", peer_s)
    assert benchmark.extra_info.get("peak_above_features_gib", 0) < 2


def test_density_coverage(benchmark, sizes):
    benchmark.group = "density and coverage"
    x_ND, y_MD = two_sets(sizes, sizes.dims)
    few = min(2000, sizes.reference)
    judged, found = by_cdist(x_ND[:few], y_MD[:few], 5), density_coverage(x_ND[:few], y_MD[:few])
    for metric, value in judged.items():
        assert getattr(found, metric) == pytest.approx(value, abs=2 / few), metric
    x_ND = x_ND[: sizes.reference]  # as many as the reference, as published with this metric
    benchmark.extra_info |= {"samples": len(x_ND), "reference": len(y_MD)}
    peer_s = seconds(lambda: by_prdc(x_ND, y_MD))
    with_peak(benchmark, lambda: density_coverage(x_ND, y_MD))
    compared(benchmark, "times_as_fast_as_prdc", peer_s)
    assert benchmark.extra_info.get("peak_above_features_gib", 0) < 2


def by_kernel_matrices(x_ND: Tensor, y_MD: Tensor) -> float:
    x_ND, y_MD = (torch.nn.functional.normalize(z.double()) for z in (x_ND, y_MD))
    pairs = ((x_ND, x_ND), (y_MD, y_MD), (x_ND, y_MD))
    k_xx, k_yy, k_xy = (torch.exp(-(torch.cdist(a, b) ** 2) / 200).mean() for a, b in pairs)
    return 1000 * float(k_xx + k_yy - 2 * k_xy)


def test_cmmd(benchmark, sizes):
    benchmark.group = "CMMD"
    x_ND, y_MD = two_sets(sizes, sizes.embedding)
    assert cmmd(x_ND[:1500], y_MD[:1500]) == pytest.approx(by_kernel_matrices(x_ND[:1500], y_MD[:1500]), abs=1e-6)
    benchmark.extra_info |= {"images": sizes.reference, "dims": sizes.embedding}
    few = slice(0, sizes.reference)
    peer_s = seconds(lambda: by_kernel_matrices(x_ND[few], y_MD))
    assert with_peak(benchmark, lambda: cmmd(x_ND[few], y_MD)) > 0
    assert benchmark.extra_info.get("peak_above_features_gib", 0) < 2
    compared(benchmark, "times_as_fast_as_whole_matrices", peer_s)
