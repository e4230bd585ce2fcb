"""Frechet distance against scipy, torch-fidelity and clean-fid; bootstrap and extrapolation against simulations."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from arvbench.errors import ContractError, UserError
from arvbench.harness.quality.metrics.frechet import ReferenceRoot, frechet_distance, frechet_of_features
from arvbench.harness.quality.metrics.frechet_infinity import fewest_at_infinity, frechet_at_infinity
from arvbench.harness.quality.metrics.frechet_spread import bootstrap_frechet, jackknife_frechet
from arvbench.harness.quality.metrics.moments import Moments, moments_of


def gaussian(dims: int, seed: int, shift: float = 0.0) -> Moments:
    """Moments of a Gaussian whose covariance is well-conditioned."""
    generator = torch.Generator().manual_seed(seed)
    factor_DD = torch.randn(dims, 2 * dims, generator=generator, dtype=torch.float64)
    mean_D = shift + torch.randn(dims, generator=generator, dtype=torch.float64) / dims
    return Moments(count=None, mean_D=mean_D, cov_DD=factor_DD @ factor_DD.T / (2 * dims))


def draw(moments: Moments, count: int, seed: int) -> Tensor:
    """(count, D) fp64 features of that Gaussian."""
    generator = torch.Generator().manual_seed(seed)
    factor_DD = torch.linalg.cholesky(moments.cov_DD)
    noise_ND = torch.randn(count, len(moments.mean_D), generator=generator, dtype=torch.float64)
    return noise_ND @ factor_DD.T + moments.mean_D


def by_sqrtm(samples: Moments, reference: Moments) -> float:
    """The formula with scipy's square root of the product."""
    root = scipy.linalg.sqrtm(samples.cov_DD.numpy() @ reference.cov_DD.numpy())
    mean = (samples.mean_D - reference.mean_D).numpy()
    spread = samples.cov_DD.trace() + reference.cov_DD.trace()
    return float(mean @ mean + spread - 2 * np.trace(root).real)


def terms(samples: Moments, reference: Moments) -> float:
    """The scale of a distance's rounding errors."""
    return float(samples.cov_DD.trace() + reference.cov_DD.trace())


@pytest.mark.parametrize("dims", [1, 2, 64, 256, 512])
def test_distance_equals_scipys_sqrtm(dims):
    samples, reference = gaussian(dims, 1, shift=0.1), gaussian(dims, 2)
    result = frechet_distance(samples, reference)
    assert result.value == pytest.approx(by_sqrtm(samples, reference), rel=0, abs=1e-12 * terms(samples, reference))
    assert result.value == result.mean_term + result.trace_term
    assert result.mean_term == pytest.approx(float((samples.mean_D - reference.mean_D).square().sum()), rel=1e-14)


def test_distance_equals_torch_fidelitys():
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    x_ND, y_MD = draw(gaussian(64, 1, shift=0.1), 400, 3), draw(gaussian(64, 2), 500, 4)
    theirs = fid_statistics_to_metric(
        fid_features_to_statistics(x_ND), fid_features_to_statistics(y_MD), verbose=False
    )[KEY_METRIC_FID]
    ours = frechet_distance(moments_of(x_ND.split(100)), moments_of(y_MD.split(100)))
    assert ours.value == pytest.approx(theirs, rel=1e-11)


def test_distance_equals_clean_fids():
    from cleanfid.fid import frechet_distance as clean_fid

    samples, reference = gaussian(128, 1, shift=0.1), gaussian(128, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        theirs = clean_fid(
            samples.mean_D.numpy(), samples.cov_DD.numpy(), reference.mean_D.numpy(), reference.cov_DD.numpy()
        )
    assert frechet_distance(samples, reference).value == pytest.approx(float(theirs), rel=1e-11)


def test_distance_of_known_gaussians():
    # Diagonal covariances: sum of (sigma - sigma_r)^2 beside the means.
    reference = Moments(count=None, mean_D=torch.zeros(3).double(), cov_DD=torch.tensor([1.0, 4, 9]).double().diag())
    samples = Moments(count=None, mean_D=torch.tensor([3.0, 0, 4]).double(), cov_DD=torch.eye(3).double() * 4)
    result = frechet_distance(samples, reference)
    assert result.mean_term == 25
    assert result.trace_term == pytest.approx(1 + 0 + 1, abs=1e-14)


def test_distance_is_symmetric_and_zero_to_itself():
    samples, reference = gaussian(96, 1, shift=0.1), gaussian(96, 2)
    there, back = frechet_distance(samples, reference).value, frechet_distance(reference, samples).value
    assert there == pytest.approx(back, rel=1e-12)
    assert frechet_distance(samples, samples).value == pytest.approx(0, abs=1e-12 * terms(samples, samples))


def test_a_cached_root_changes_no_bit():
    samples, reference = gaussian(64, 1), gaussian(64, 2)
    assert frechet_distance(samples, ReferenceRoot.of(reference)) == frechet_distance(samples, reference)


@pytest.mark.parametrize("count", [400, 20])
def test_a_root_is_triangular_and_squares_to_its_covariance(count):
    reference = moments_of([draw(gaussian(64, 2), count, 4)])
    root_DD = ReferenceRoot.of(reference).root_DD
    assert torch.equal(root_DD, root_DD.triu())
    assert torch.allclose(root_DD.T @ root_DD, reference.cov_DD, rtol=0, atol=1e-14 * terms(reference, reference))


def test_fewer_images_than_dimensions_agree_as_far_as_scipy_gets():
    x_ND, y_MD = draw(gaussian(128, 1, shift=0.1), 40, 3), draw(gaussian(128, 2), 400, 4)
    samples, reference = moments_of([x_ND]), moments_of([y_MD])
    result = frechet_distance(samples, reference)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy says that the product is singular
        assert result.value == pytest.approx(by_sqrtm(samples, reference), abs=1e-6 * terms(samples, reference))
    # Without rounding in the null directions: singular values of R times the centred features.
    centred_ND = (x_ND - x_ND.mean(dim=0)) / math.sqrt(len(x_ND) - 1)
    root_trace = torch.linalg.svdvals(centred_ND @ ReferenceRoot.of(reference).root_DD.T).sum()
    exact = result.mean_term + terms(samples, reference) - 2 * float(root_trace)
    assert result.value == pytest.approx(exact, abs=1e-6 * terms(samples, reference))
    assert 0 < result.clamped_mass < 1e-12


def test_clamped_mass_is_the_share_of_negative_eigenvalues():
    reference = Moments(count=None, mean_D=torch.zeros(3).double(), cov_DD=torch.eye(3).double())
    samples = Moments(count=None, mean_D=torch.zeros(3).double(), cov_DD=torch.tensor([4.0, 1, -0.5]).double().diag())
    result = frechet_distance(samples, reference)
    assert result.clamped_mass == pytest.approx(0.5 / 4.5, rel=1e-14)
    assert result.trace_term == pytest.approx(4.5 + 3 - 2 * (2 + 1), rel=1e-14)


@pytest.mark.parametrize(("count", "reference_count"), [(20, 30), (30, 20), (20, 300), (300, 20), (300, 300)])
def test_distance_of_features_is_that_of_their_moments(count, reference_count):
    x_ND, y_MD = draw(gaussian(64, 1, shift=0.1), count, 3), draw(gaussian(64, 2), reference_count, 4)
    samples, reference = moments_of([x_ND]), moments_of([y_MD])
    result = frechet_of_features(x_ND.float(), y_MD.float())
    by_moments = frechet_distance(samples, reference)
    assert result.value == pytest.approx(by_moments.value, abs=1e-6 * terms(samples, reference))
    assert result.mean_term == pytest.approx(by_moments.mean_term, rel=1e-5)


def test_few_features_are_exact_where_moments_magnify_rounding():
    # Equal sets of low rank: the distance is 0, and roots of eigenvalues of 1e-17 are not.
    x_ND = draw(gaussian(256, 1), 20, 3)
    moments = moments_of([x_ND])
    assert abs(frechet_of_features(x_ND, x_ND).value) < 1e-13 * terms(moments, moments)
    assert abs(frechet_distance(moments, moments).value) > 1e-11 * terms(moments, moments)


def test_bootstrap_is_that_of_resampled_features():
    """The weighted sums equal the plain distance between the moments of drawn rows."""
    reference = gaussian(6, 2)
    root = ReferenceRoot.of(reference)
    for count in (40, 5):  # full rank, and fewer images than dimensions
        x_ND = draw(gaussian(6, 1, shift=0.3), count, 3).float()
        generator = torch.Generator().manual_seed(11)
        draws = [torch.randint(count, (count,), generator=generator) for _ in range(30)]
        distances = torch.tensor([frechet_distance(moments_of([x_ND[rows]]), root).value for rows in draws]).double()
        low, high = np.quantile(distances.numpy(), [0.025, 0.975]) - float(distances.mean())
        value = frechet_distance(moments_of([x_ND]), root).value
        result = bootstrap_frechet(x_ND, root, 30, seed=11)
        assert result.interval == pytest.approx((value + low, value + high), rel=1e-5)
        assert result.std == pytest.approx(float(distances.std()), rel=1e-5)


def test_bootstrap_depends_on_the_seed_alone():
    root, x_ND = ReferenceRoot.of(gaussian(6, 2)), draw(gaussian(6, 1), 50, 3)
    assert bootstrap_frechet(x_ND, root, 20, seed=1) == bootstrap_frechet(x_ND, root, 20, seed=1)
    assert bootstrap_frechet(x_ND, root, 20, seed=1) != bootstrap_frechet(x_ND, root, 20, seed=2)


def test_95_percent_intervals_cover_the_expected_distance_of_n_samples():
    """100 sets of samples: about 95 % of their intervals hold the mean distance of sets of this size."""
    distribution, root = gaussian(8, 1, shift=0.3), ReferenceRoot.of(gaussian(8, 2))
    count = 200
    distances = [frechet_distance(moments_of([draw(distribution, count, 1000 + n)]), root).value for n in range(1000)]
    expected, true_std = float(np.mean(distances)), float(np.std(distances))
    results = [bootstrap_frechet(draw(distribution, count, n), root, 100, seed=n) for n in range(100)]
    covered = np.mean([low <= expected <= high for (low, high), *_ in results])
    assert 0.88 <= covered <= 0.99
    assert np.mean([result.std for result in results]) == pytest.approx(true_std, rel=0.15)


def test_an_interval_needs_two_replicates():
    with pytest.raises(UserError, match="at least 2 replicates"):
        bootstrap_frechet(torch.randn(20, 3), ReferenceRoot.of(gaussian(3, 1)), 1)


def test_extrapolation_is_nearer_to_the_truth_than_the_distance_at_n():
    distribution, reference = gaussian(32, 1, shift=0.05), gaussian(32, 2)
    root = ReferenceRoot.of(reference)
    truth = frechet_distance(distribution, root).value
    at_n, at_infinity = [], []
    for seed in range(100):
        x_ND = draw(distribution, 1000, seed)
        at_n.append(frechet_distance(moments_of([x_ND]), root).value - truth)
        at_infinity.append(frechet_at_infinity(x_ND, root, seed).value - truth)
    assert abs(np.mean(at_infinity)) < 0.1 * np.mean(at_n)  # the bias goes
    assert np.mean(np.abs(at_infinity)) < 0.75 * np.mean(np.abs(at_n))  # and noise does not eat that up


def test_extrapolation_reports_its_fit():
    distribution, root = gaussian(8, 1, shift=0.3), ReferenceRoot.of(gaussian(8, 2))
    x_ND = draw(distribution, 1000, 3)
    result = frechet_at_infinity(x_ND, root, seed=5)
    assert result.sizes[0] == 100
    assert result.sizes[-1] == 1000
    assert len(result.sizes) == len(result.distances) == 15
    assert len(set(np.diff(result.sizes))) <= 2  # evenly spaced in n, up to rounding
    assert result.distances[-1] == pytest.approx(frechet_distance(moments_of([x_ND]), root).value, rel=1e-12)
    slope, intercept = np.polyfit(1 / np.array(result.sizes), result.distances, 1)
    assert slope > 0
    assert result.value == pytest.approx(intercept, rel=1e-10)
    _, covariance = np.polyfit(1 / np.array(result.sizes), result.distances, 1, cov=True)
    assert result.stderr == pytest.approx(math.sqrt(covariance[1, 1]), rel=1e-6)
    assert result == frechet_at_infinity(x_ND, root, seed=5)
    assert result != frechet_at_infinity(x_ND, root, seed=6)


def test_the_smallest_size_has_full_rank():
    x_ND = draw(gaussian(100, 1), 400, 3)
    assert frechet_at_infinity(x_ND, ReferenceRoot.of(gaussian(100, 2))).sizes[0] == 101


def test_intervals_of_the_extrapolation_cover_the_truth():
    distribution, root = gaussian(8, 1, shift=0.3), ReferenceRoot.of(gaussian(8, 2))
    truth = frechet_distance(distribution, root).value
    covered = fit_alone = 0
    for seed in range(100):
        x_ND = draw(distribution, 300, seed)
        result, std = frechet_at_infinity(x_ND, root, seed), jackknife_frechet(x_ND, root).std
        low, high = result.interval(std)
        covered += low <= truth <= high
        low, high = result.interval(0.0)
        fit_alone += low <= truth <= high
    assert covered >= 88
    assert fit_alone < covered


@pytest.mark.parametrize(("dims", "fewest"), [(2048, 4098), (8, 150)])
def test_too_few_samples_for_an_extrapolation(dims, fewest):
    assert fewest_at_infinity(dims) == fewest
    root = ReferenceRoot.of(gaussian(8, 2))
    with pytest.raises(UserError, match="needs at least 150 samples at 8 feature dimensions, there are 149"):
        frechet_at_infinity(torch.randn(149, 8), root)


def broken(**changes: Tensor) -> Moments:
    good = gaussian(4, 1)
    return Moments(count=None, **({"mean_D": good.mean_D, "cov_DD": good.cov_DD} | changes))


NAN = torch.tensor([0, 0, torch.nan, 0]).double()
SKEW = torch.eye(4).double() + torch.ones(4, 4).double().triu(1)


@pytest.mark.parametrize(
    ("moments", "error", "says"),
    [
        (broken(mean_D=NAN), UserError, "mean of {what}: 1 of 4 values are NaN"),
        (broken(cov_DD=NAN.diag()), UserError, "covariance of {what}: 1 of 16 values are NaN"),
        (broken(cov_DD=torch.eye(4).double() * torch.inf), UserError, "NaN or infinite"),
        (broken(cov_DD=SKEW), UserError, "covariance of {what} is not symmetric"),
        (broken(cov_DD=torch.eye(5).double()), UserError, "do not belong together"),
        (broken(cov_DD=torch.eye(4)), ContractError, "not float64"),
    ],
)
def test_unusable_moments_are_named(moments, error, says):
    with pytest.raises(error, match=says.format(what="the samples")):
        frechet_distance(moments, gaussian(4, 2))
    with pytest.raises(error, match=says.format(what="the reference")):
        frechet_distance(gaussian(4, 2), moments)


@pytest.mark.parametrize("values", [(1.0, 1, 1, -0.5), (1.0, -1, 1, -1), (-1.0, -1, -1, -1)])
def test_a_reference_without_a_covariance_is_refused(values):
    with pytest.raises(UserError, match="negative eigenvalues"):
        ReferenceRoot.of(broken(cov_DD=torch.tensor(values).double().diag()))


def test_samples_whose_eigenvalues_cancel_have_a_distance_that_tells():
    samples = broken(cov_DD=torch.tensor([1.0, -1, 1, -1]).double().diag())
    root = ReferenceRoot.of(Moments(count=None, mean_D=samples.mean_D, cov_DD=torch.eye(4).double()))
    assert frechet_distance(samples, root).clamped_mass == 1


def test_fp32_statistics_are_symmetric_enough():
    moments = gaussian(64, 1)
    noise_DD = 1 + 1e-7 * torch.randn(64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ReferenceRoot.of(Moments(count=None, mean_D=moments.mean_D, cov_DD=moments.cov_DD * noise_DD))


@pytest.mark.parametrize("function", [bootstrap_frechet, frechet_at_infinity])
def test_unusable_features_are_refused(function):
    root = ReferenceRoot.of(gaussian(8, 2))
    features_ND = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(UserError, match="samples have 7 feature dimensions and the reference 8"):
        function(features_ND[:, :7], root)
    features_ND[13, 2] = torch.nan
    with pytest.raises(UserError, match="features of the samples: 1 of 1600 values are NaN"):
        function(features_ND, root)


def test_features_of_different_extractors_or_too_few_are_refused():
    with pytest.raises(UserError, match="different extractors"):
        frechet_distance(gaussian(4, 1), gaussian(5, 1))
    with pytest.raises(UserError, match="different extractors"):
        frechet_of_features(torch.randn(9, 4), torch.randn(9, 5))
    with pytest.raises(UserError, match="at least 2 images, there are 1 samples and 9"):
        frechet_of_features(torch.randn(1, 4), torch.randn(9, 4))
    with pytest.raises(UserError, match="features of the reference: 1 of 12 values"):
        frechet_of_features(torch.zeros(3, 4), torch.tensor([[torch.nan, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]))
    with pytest.raises(UserError, match="at least 2 images, there are 1"):
        bootstrap_frechet(torch.randn(1, 4), ReferenceRoot.of(gaussian(4, 1)))


def test_interval_of_balanced_samples_is_resampled_within_classes():
    """Two far classes, half and half by scheme: the counts of a resample across classes would spread the distance."""
    generator = torch.Generator().manual_seed(3)
    labels_N = torch.arange(2).repeat_interleave(100)
    root = ReferenceRoot.of(gaussian(3, 1))

    def draw():
        return torch.randn(200, 3, generator=generator) + 4.0 * labels_N[:, None]

    real = torch.tensor([frechet_distance(moments_of([draw()]), root).value for _ in range(100)]).std()
    x_ND = draw()
    for within, across in (
        (bootstrap_frechet(x_ND, root, 200, strata_N=labels_N).std, bootstrap_frechet(x_ND, root, 200).std),
        (jackknife_frechet(x_ND, root, strata_N=labels_N).std, jackknife_frechet(x_ND, root).std),
    ):
        assert 0.7 < within / real < 1.4
        assert across > 1.5 * real
