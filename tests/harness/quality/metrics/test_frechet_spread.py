"""Intervals of Frechet distances: exact pieces, and coverage of the expected distance by simulation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from arvbench.errors import UserError
from arvbench.harness.data.digits import load_digits_rgb
from arvbench.harness.quality.features.feature_pass import FeaturePass
from arvbench.harness.quality.images.live import load_live_source
from arvbench.harness.quality.images.source import ImageSource
from arvbench.harness.quality.images.tensors import TensorSource
from arvbench.harness.quality.metrics.frechet import ReferenceRoot, frechet_distance, frechet_of_features
from arvbench.harness.quality.metrics.frechet_spread import (
    Against,
    LeaveOut,
    Spread,
    against_images,
    jackknife_frechet,
    mean_over_classes,
)
from arvbench.harness.quality.metrics.moments import Moments, moments_of
from arvbench.results.schema import CaseConfig, QualityRequest

Draw = Callable[[int, torch.Generator], Tensor]
CPU = torch.device("cpu")


def covariance(dims: int, low: float = 1.0, high: float = 1.0) -> Tensor:
    """Eigenvalues over three decades, as features have them, in the same random directions for any `low`, `high`."""
    generator = torch.Generator().manual_seed(dims)
    directions_DD = torch.linalg.qr(torch.randn(dims, dims, generator=generator, dtype=torch.float64)).Q
    values_D = torch.logspace(0, -3, dims, dtype=torch.float64) * torch.linspace(low, high, dims, dtype=torch.float64)
    return directions_DD @ torch.diag(values_D) @ directions_DD.T


def gaussian(dims: int) -> Draw:
    factor_DD = torch.linalg.cholesky(covariance(dims))
    return lambda count, generator: (
        torch.randn(count, dims, generator=generator, dtype=torch.float64) @ factor_DD.T + 0.1
    )


def root_of(covariance_DD: Tensor, mean: float = 0.0) -> ReferenceRoot:
    mean_D = torch.full((len(covariance_DD),), mean, dtype=torch.float64)
    return ReferenceRoot.of(Moments(count=None, mean_D=mean_D, cov_DD=covariance_DD))


@pytest.mark.parametrize(
    ("count", "reference_count"),
    [(9, 200), (16, 200), (17, 200), (40, 200), (12, 10), (40, 10)],
    ids=lambda count: str(count),
)
def test_leaving_out_gives_the_distance_of_the_rest(count: int, reference_count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    x_ND, y_MD = (torch.randn(n, 16, generator=generator) for n in (count, reference_count))
    x_ND = 1.3 * x_ND + 0.2
    against = against_images(y_MD, CPU)
    if reference_count > 16:
        root = ReferenceRoot.of(moments_of([y_MD]))
        against = Against(root.root_DD, root.moments.mean_D, float(root.moments.cov_DD.trace()), CPU)
    sets = LeaveOut(x_ND, against)
    assert sets.value == pytest.approx(frechet_of_features(x_ND, y_MD).value, rel=1e-6)
    everything = torch.arange(count)
    singles = [frechet_of_features(x_ND[everything != i], y_MD).value for i in range(count)]
    assert sets.without_each().tolist() == pytest.approx(singles, rel=1e-5)
    pairs_P2 = torch.tensor([[0, 1], [3, 2], [count - 1, 0]])
    rests = [x_ND[(everything != i) & (everything != j)] for i, j in pairs_P2.tolist()]
    doubles = [frechet_of_features(rest_nD, y_MD).value for rest_nD in rests]
    assert sets.without_pairs(pairs_P2).tolist() == pytest.approx(doubles, rel=1e-5)


@pytest.mark.parametrize("count", [10, 16, 40])
def test_leaving_out_among_repeated_images_and_features_without_variance(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    x_ND, y_MD = torch.randn(count, 16, generator=generator), torch.randn(200, 16, generator=generator)
    x_ND[:, 12:], x_ND[1], x_ND[-1] = 0, x_ND[0], x_ND[3]
    root = ReferenceRoot.of(moments_of([y_MD]))
    sets = LeaveOut(x_ND, Against(root.root_DD, root.moments.mean_D, float(root.moments.cov_DD.trace()), CPU))
    everything = torch.arange(count)
    singles = [frechet_of_features(x_ND[everything != i], y_MD).value for i in range(count)]
    assert sets.without_each().tolist() == pytest.approx(singles, rel=1e-5)
    pairs_P2 = torch.tensor([[0, 1], [3, 2]])
    rests = [x_ND[(everything != i) & (everything != j)] for i, j in pairs_P2.tolist()]
    assert sets.without_pairs(pairs_P2).tolist() == pytest.approx(
        [frechet_of_features(rest_nD, y_MD).value for rest_nD in rests], rel=1e-5
    )


def coverage(draw: Draw, root: ReferenceRoot, count: int, sets: int) -> float:
    """Share of intervals of `sets` sets that hold the mean distance of all of them."""
    generator = torch.Generator().manual_seed(count)
    drawn = [draw(count, generator) for _ in range(sets)]
    expected = sum(frechet_distance(moments_of([x_ND]), root).value for x_ND in drawn) / sets
    intervals = [spread.interval for x_ND in drawn if (spread := jackknife_frechet(x_ND, root)) is not None]
    return sum(low <= expected <= high for low, high in intervals) / sets


def assert_covered(share: float) -> None:
    """93 to 97 %, and two standard errors of a share of 1,000 sets."""
    assert 0.93 - 0.014 <= share <= 0.97 + 0.014


REFERENCES = {"another": (0.6, 1.5, 0.0), "the same": (1.0, 1.0, 0.1)}
"""Stretches of the reference's eigenvalues, and its mean."""


@pytest.mark.parametrize(
    ("reference", "per_dim"), [("another", 0.5), ("the same", 1), ("another", 2.5), ("the same", 8)]
)
def test_95_percent_intervals_cover_the_expected_distance(reference: str, per_dim: float) -> None:
    """Equal populations are the hard case: the first-order part of the variance vanishes."""
    dims = 40 if per_dim < 1 else 20  # 20 images at least
    low, high, mean = REFERENCES[reference]
    covered = coverage(gaussian(dims), root_of(covariance(dims, low, high), mean), int(per_dim * dims), sets=150)
    assert 0.90 <= covered <= 1.0


@pytest.mark.slow
@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("per_dim", [0.5, 1, 2.5, 8, 25])
def test_coverage_on_gaussians(reference: str, per_dim: float) -> None:
    dims = 64
    low, high, mean = REFERENCES[reference]
    covered = coverage(gaussian(dims), root_of(covariance(dims, low, high), mean), int(per_dim * dims), sets=1000)
    print(f"{reference} distribution, N = {per_dim} D: {covered:.3f}")
    assert_covered(covered)


@pytest.fixture(scope="module")
def digit_features() -> Callable[[ImageSource], Tensor]:
    features = FeaturePass()
    extractor = features.extractor("digits-cnn")
    return lambda source: features.scan(source, [(extractor, frozenset(["64"]))]).features["digits-cnn"].features("64")


@pytest.mark.slow
@pytest.mark.parametrize("model", ["demo/var", "demo/llamagen"])
def test_coverage_on_features_of_a_demo_model(model: str, digit_features: Callable[[ImageSource], Tensor]) -> None:
    request = QualityRequest(protocols=("digits-cnn",), reference="digits", images=2000)
    source = load_live_source(CaseConfig(model=model, weights="demo", batch=100, quality=request))
    population_ND = digit_features(source).double()
    reference_MD = digit_features(TensorSource(load_digits_rgb().images_N3HW))
    root = ReferenceRoot.of(moments_of([reference_MD]))

    def draw(count: int, generator: torch.Generator) -> Tensor:
        return population_ND[torch.randint(len(population_ND), (count,), generator=generator)]

    for per_dim in (0.5, 1, 2.5, 8, 25):
        covered = coverage(draw, root, int(per_dim * 64), sets=1000)
        print(f"{model}, N = {per_dim} D: {covered:.3f}")
        assert_covered(covered)


def test_the_spread_is_that_of_fresh_samples() -> None:
    root, draw, generator = root_of(covariance(24, 0.6, 1.5)), gaussian(24), torch.Generator().manual_seed(1)
    sets = [draw(240, generator) for _ in range(200)]
    distances = torch.tensor([frechet_distance(moments_of([x_ND]), root).value for x_ND in sets])
    spreads = [spread for x_ND in sets[:40] if (spread := jackknife_frechet(x_ND, root)) is not None]
    assert sum(spread.std for spread in spreads) / len(spreads) == pytest.approx(float(distances.std()), rel=0.15)
    assert {spread.method for spread in spreads} == {"skewed jackknife"}


@pytest.mark.parametrize(("pairs", "t"), [(6, 2.2010), (9, 2.1098)])
def test_an_interval_without_skewness_is_that_of_student_with_one_degree_less_than_images(pairs: int, t: float) -> None:
    """Far from a reference, symmetric sets have no skewness. Values of t are those of printed tables."""
    half_ND = torch.randn(pairs, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    spread = jackknife_frechet(torch.cat([half_ND, -half_ND]), root_of(torch.eye(3, dtype=torch.float64), -50.0))
    assert spread is not None
    assert spread.interval[1] - spread.interval[0] == pytest.approx(2 * t * spread.std, rel=1e-3)


def test_the_mean_over_classes_has_the_spread_of_its_parts() -> None:
    generator = torch.Generator().manual_seed(5)
    pairs = [(torch.randn(30, 12, generator=generator), torch.randn(8, 12, generator=generator)) for _ in range(4)]
    alone = [mean_over_classes([pair]) for pair in pairs]
    together = mean_over_classes(pairs)
    assert together is not None
    parts = [spread.std for spread in alone if spread is not None]
    assert together.std == pytest.approx(sum(std**2 for std in parts) ** 0.5 / 4, rel=1e-9)
    assert mean_over_classes([*pairs, (torch.randn(7, 12), torch.randn(9, 12))]) is None


def test_an_interval_is_of_positive_distances() -> None:
    generator = torch.Generator().manual_seed(2)
    same_ND = torch.randn(50, 4, generator=generator)
    spread = jackknife_frechet(same_ND, ReferenceRoot.of(moments_of([same_ND])))
    assert spread is not None and 0 <= spread.interval[0] <= spread.interval[1] < 0.5
    for count in (12, 50, 400):
        x_ND = torch.randn(count, 4, generator=generator)
        value = frechet_distance(moments_of([x_ND]), root := root_of(torch.eye(4, dtype=torch.float64))).value
        found = jackknife_frechet(x_ND, root)
        assert found is not None and 0 < found.interval[0] < value < found.interval[1]


def test_features_that_do_not_vary_have_no_spread() -> None:
    root = root_of(torch.eye(3, dtype=torch.float64))
    assert jackknife_frechet(torch.ones(20, 3), root) == Spread((4.0 + 2, 4.0 + 2), 0.0, "skewed jackknife")


def test_too_few_or_unusable_features() -> None:
    root = root_of(torch.eye(3, dtype=torch.float64))
    assert jackknife_frechet(torch.randn(7, 3), root) is None
    with pytest.raises(UserError, match="NaN or infinite"):
        jackknife_frechet(torch.full((9, 3), torch.nan), root)
    with pytest.raises(UserError, match="4 feature dimensions and the reference 3"):
        jackknife_frechet(torch.randn(9, 4), root)
