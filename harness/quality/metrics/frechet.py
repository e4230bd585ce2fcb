"""Frechet distance of two Gaussians, its bootstrap interval, and its value for infinitely many samples.

FD = |m - m_r|^2 + tr S + tr S_r - 2 tr (S_r^1/2 S S_r^1/2)^1/2, all in float64. The last trace sums the square roots of
the eigenvalues of R S R^T, a symmetric matrix with R^T R = S_r. Every root R of S_r gives these eigenvalues; here it is
S_r^1/2 rotated into triangular form, computed once per reference. Eigenvalues that rounding made negative count as
zero; their share is reported.

Shapes   N samples, M reference images, D features, W weightings of the samples
Range    FD >= 0 up to rounding: equal sets may give -1e-12; 0 is best
Source   FD: Dowson & Landau 1982, Heusel et al. 2017 (arXiv:1706.08500). At infinity: Chong & Forsyth 2020
         (arXiv:1911.07023)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from arvbench.errors import ContractError, UserError
from arvbench.harness.quality.metrics.intervals import NORMAL_95
from arvbench.harness.quality.metrics.moments import Moments, moments_of

_ASYMMETRY = 1e-5
"""Largest |S - S^T| relative to the largest entry; published statistics in fp32 stay far below it."""
_NOT_A_COVARIANCE = 1e-2
"""Largest share of negative eigenvalues in a reference's covariance that rounding errors explain."""
_BLOCK = 4096
"""Rows converted to float64 at a time."""
INFINITY_SIZES = 15
"""Number of sample sizes in the fit, as published."""
_SMALLEST_SHARE = 10
"""Ratio of N to the smallest sample size in the fit, as published (50,000 to 5,000)."""
_FEWEST_AT_INFINITY = 150


@dataclass(frozen=True, slots=True, kw_only=True)
class Frechet:
    """A distance and its terms: value = mean_term + trace_term."""

    value: float
    mean_term: float
    trace_term: float
    clamped_mass: float
    """Sum of |negative eigenvalues| of R S R^T over its trace; about 1e-16 for sound input."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceRoot:
    """Moments of a reference, and a square root of its covariance: the slow half of every distance."""

    moments: Moments
    root_DD: Tensor
    """R (D, D) fp64, upper triangular; R^T R is the covariance."""
    clamped_mass: float
    """Sum of |negative eigenvalues| of the covariance over its trace."""

    @classmethod
    def of(cls, moments: Moments) -> ReferenceRoot:
        """Compute the root. Raises UserError for moments that are not finite or a matrix that is not a covariance."""
        _check(moments, "the reference")
        values_D, vectors_DD = torch.linalg.eigh(_symmetric(moments.cov_DD))
        clamped_mass = _negative_share(values_D)
        if clamped_mass > _NOT_A_COVARIANCE:
            raise UserError(
                f"the reference's covariance has negative eigenvalues ({clamped_mass:.1%} of its trace): it is not a "
                "covariance; make or fetch the statistics again"
            )
        # Directions of large variance first, so that the small ones keep their digits in the QR decomposition.
        any_root_DD = (vectors_DD * values_D.clamp(min=0).sqrt()).T.flip(0)
        root_DD = torch.linalg.qr(any_root_DD, mode="r").R.contiguous()
        return cls(moments=moments, root_DD=root_DD, clamped_mass=clamped_mass)


def frechet_distance(samples: Moments, reference: Moments | ReferenceRoot) -> Frechet:
    """Return the distance between the moments of two sets, both in D dimensions.

    A `ReferenceRoot` halves the work of every further call. Raises UserError for moments that are not finite, of
    different D, or with an asymmetric covariance.
    """
    root = reference if isinstance(reference, ReferenceRoot) else ReferenceRoot.of(reference)
    _check(samples, "the samples")
    _check_dims(len(samples.mean_D), root)
    values_D = torch.linalg.eigvalsh(_upper_of_product(root.root_DD, samples.cov_DD), UPLO="U")
    mean_D = samples.mean_D - root.moments.mean_D
    spread = samples.cov_DD.trace() + root.moments.cov_DD.trace()
    return _frechet(mean_D @ mean_D, spread - 2 * values_D.clamp(min=0).sqrt().sum(), _negative_share(values_D))


def frechet_of_features(samples_ND: Tensor, reference_MD: Tensor) -> Frechet:
    """Return the distance between two sets of features, exact for all N, M >= 2, and fast if N and M are below D.

    In the fast case both covariances have low rank, and tr (S_r^1/2 S S_r^1/2)^1/2 is the sum of the singular values of
    the (N, M) product of centred features: no (D, D) matrix, and no null directions whose rounding a root magnifies.
    Otherwise the result is `frechet_distance` of the moments.
    """
    dims = samples_ND.shape[1]
    if dims != reference_MD.shape[1]:
        raise UserError(_different_dims(dims, reference_MD.shape[1]))
    if min(len(samples_ND), len(reference_MD)) < 2:
        raise UserError(
            f"a covariance needs at least 2 images, there are {len(samples_ND)} samples and {len(reference_MD)} "
            "reference images"
        )
    if max(len(samples_ND), len(reference_MD)) >= dims:
        return frechet_distance(moments_of([samples_ND]), moments_of([reference_MD]))
    samples_ND, reference_MD = samples_ND.double(), reference_MD.double()
    for features_ND, side in ((samples_ND, "the samples"), (reference_MD, "the reference")):
        _check_finite(features_ND, f"features of {side}")
    mean_D = samples_ND.mean(dim=0) - reference_MD.mean(dim=0)
    x_ND = (samples_ND - samples_ND.mean(dim=0)) / math.sqrt(len(samples_ND) - 1)
    y_MD = (reference_MD - reference_MD.mean(dim=0)) / math.sqrt(len(reference_MD) - 1)
    root_trace = torch.linalg.svdvals(x_ND @ y_MD.T).sum()
    return _frechet(mean_D @ mean_D, x_ND.square().sum() + y_MD.square().sum() - 2 * root_trace, 0.0)


def _upper_of_product(root_DD: Tensor, cov_DD: Tensor) -> Tensor:
    """Return R S R^T in the upper triangle; the entries below the diagonal are undefined.

    LAPACK reduces the eigenproblem S R^T R x = l x with a quarter of the work of two matrix products.
    """
    from scipy.linalg.lapack import dsygst

    # Transposed because LAPACK stores columns: its lower triangle is the upper one here.
    product, info = dsygst(cov_DD.cpu().numpy().T, root_DD.cpu().numpy().T, itype=2, lower=1)
    if info != 0:
        raise ContractError(f"LAPACK dsygst refused its argument {-info}")
    return torch.from_numpy(product.T)


class Bootstrap(NamedTuple):
    """Spread of a distance over resamples of the samples."""

    interval: tuple[float, float]
    """95 %: value + (2.5 % and 97.5 % quantiles of the replicates - their mean), clipped at 0, the least distance."""
    std: float
    """Standard deviation of the replicates."""


def bootstrap_frechet(
    features_ND: Tensor,
    root: ReferenceRoot,
    replicates: int = 100,
    seed: int = 0,
    *,
    strata_N: Tensor | None = None,
    device: torch.device | str = "cpu",
) -> Bootstrap:
    """Return the 95 % interval of the distance expected for N samples (not infinitely many); the reference is exact.

    Each replicate draws N of the N samples with replacement. A resample has about 63 % distinct images and lies further
    from the reference than the samples, so the replicates are shifted to have the value as their mean: the interval
    shows how much the value would change with other samples of equal number. The bias of FD at this N stays in both;
    `frechet_at_infinity` estimates it.

    `strata_N` are class labels, for samples with a fixed number of images per class: images are then resampled within
    their class. Resampling across classes would add a spread of class counts that these samples do not have.

    Work: N D^2 multiply-adds in float64 and an eigenvalue problem of D per replicate, 8 N D bytes. Raises UserError for
    features that are not finite, of another D, or fewer than two.
    """
    if replicates < 2:
        raise UserError(f"a bootstrap interval needs at least 2 replicates, not {replicates}")
    generator = torch.Generator().manual_seed(seed)
    count = len(features_ND)
    resamples = (_resample(count, strata_N, generator) for _ in range(replicates))
    weights_WN = torch.stack([torch.ones(count), *(torch.bincount(r, minlength=count).float() for r in resamples)])
    value, *rest = _distances(features_ND, root, weights_WN, device)
    replicates_W = torch.tensor(rest, dtype=torch.float64)
    low, high = torch.quantile(replicates_W, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    mean = float(replicates_W.mean())
    return Bootstrap((max(0.0, value + low - mean), value + high - mean), float(replicates_W.std()))


def _resample(count: int, strata_N: Tensor | None, generator: torch.Generator) -> Tensor:
    """Return N indices drawn with replacement; every stratum keeps its size."""
    if strata_N is None:
        return torch.randint(count, (count,), generator=generator)
    order_N = torch.argsort(strata_N, stable=True)
    _, sizes_C = torch.unique_consecutive(strata_N[order_N], return_counts=True)
    starts_N = (sizes_C.cumsum(0) - sizes_C).repeat_interleave(sizes_C)
    sizes_N = sizes_C.repeat_interleave(sizes_C)
    places_N = (torch.rand(len(strata_N), generator=generator, dtype=torch.float64) * sizes_N).long()
    return order_N[starts_N + places_N.minimum(sizes_N - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Extrapolated:
    """Distance for infinitely many samples: the intercept at 1/n = 0 of the line of FD against 1/n."""

    value: float
    stderr: float
    """Standard error of the intercept, from the scatter around the line. Subsets share images, so it does not contain
    the sampling error of the N samples; `bootstrap_frechet` estimates that one."""
    sizes: tuple[int, ...]
    distances: tuple[float, ...]

    def interval(self, sampling_std: float) -> tuple[float, float]:
        """Return the 95 % interval of the distance at infinity; `sampling_std` is the bootstrap's std of FD at N.

        The scatter of the fit alone is too narrow: it covers the truth in about half of all cases.
        """
        reach = NORMAL_95 * math.hypot(self.stderr, sampling_std)
        return self.value - reach, self.value + reach


def fewest_at_infinity(dims: int) -> int:
    """Return the fewest samples for `frechet_at_infinity`: half of them still give a covariance of full rank."""
    return max(2 * (dims + 1), _FEWEST_AT_INFINITY)


def frechet_at_infinity(
    features_ND: Tensor, root: ReferenceRoot, seed: int = 0, *, device: torch.device | str = "cpu"
) -> Extrapolated:
    """Fit FD = a + b / n over 15 sizes n, evenly spaced up to N, and return a.

    Each size has its own random subset without replacement; the largest is all N. The smallest is max(N / 10, D + 1):
    below D + 1 a covariance lacks full rank and FD is not linear in 1/n. Raises UserError for fewer samples than
    `fewest_at_infinity(D)`, or features that are not finite or of another D.
    """
    count, dims = features_ND.shape
    if count < fewest_at_infinity(dims):
        raise UserError(
            f"the extrapolation of FID to infinitely many samples needs at least {fewest_at_infinity(dims)} samples "
            f"at {dims} feature dimensions, there are {count}"
        )
    smallest = max(count // _SMALLEST_SHARE, dims + 1)
    sizes_W = torch.linspace(smallest, count, INFINITY_SIZES, dtype=torch.float64).round().long()
    generator = torch.Generator().manual_seed(seed)
    weights_WN = torch.zeros(INFINITY_SIZES, count)
    for weights_N, size in zip(weights_WN, sizes_W.tolist(), strict=True):
        weights_N[torch.randperm(count, generator=generator)[:size]] = 1
    distances = _distances(features_ND, root, weights_WN, device)
    value, stderr = _intercept(1 / sizes_W.double(), torch.tensor(distances, dtype=torch.float64))
    return Extrapolated(value=value, stderr=stderr, sizes=tuple(sizes_W.tolist()), distances=tuple(distances))


def _intercept(x_W: Tensor, y_W: Tensor) -> tuple[float, float]:
    """Return the intercept of the least-squares line and its standard error."""
    centred_W = x_W - x_W.mean()
    slope = centred_W @ y_W / centred_W.square().sum()
    intercept = y_W.mean() - slope * x_W.mean()
    variance = (y_W - intercept - slope * x_W).square().sum() / (len(x_W) - 2)
    stderr = (variance * (1 / len(x_W) + x_W.mean() ** 2 / centred_W.square().sum())).sqrt()
    return float(intercept), float(stderr)


def _distances(features_ND: Tensor, root: ReferenceRoot, weights_WN: Tensor, device: torch.device | str) -> list[float]:
    """Return FD of every weighting of the samples; a weight is the multiplicity of an image in the set.

    R S R^T comes directly from y = R (x - mean): no product of (D, D) matrices per weighting. Sums are centred on the
    mean of all samples, which is close to that of every weighting.
    """
    _check_dims(features_ND.shape[1], root)
    _check_finite(features_ND, "features of the samples")
    if len(features_ND) < 2:
        raise UserError(f"a covariance needs at least 2 images, there are {len(features_ND)}")
    device = torch.device(device)
    root_DD, reference_mean_D = root.root_DD.to(device), root.moments.mean_D.to(device)
    weights_WN = weights_WN.to(device, torch.float64)
    origin_D = torch.stack([part.double().sum(dim=0) for part in features_ND.split(_BLOCK)]).sum(dim=0)
    origin_D = (origin_D / len(features_ND)).to(device)

    projected_ND = torch.empty(features_ND.shape, dtype=torch.float64, device=device)
    shift_WD = torch.zeros(len(weights_WN), len(origin_D), dtype=torch.float64, device=device)
    squares_W = torch.zeros(len(weights_WN), dtype=torch.float64, device=device)
    for start in range(0, len(features_ND), _BLOCK):
        rows = slice(start, start + _BLOCK)
        centred_BD = features_ND[rows].to(device).double() - origin_D
        projected_ND[rows] = centred_BD @ root_DD.T
        shift_WD += weights_WN[:, rows] @ centred_BD
        squares_W += weights_WN[:, rows] @ centred_BD.square().sum(dim=1)

    counts_W = weights_WN.sum(dim=1)
    shift_WD /= counts_W[:, None]
    traces_W = (squares_W - counts_W * shift_WD.square().sum(dim=1)) / (counts_W - 1)
    means_W = (origin_D + shift_WD - reference_mean_D).square().sum(dim=1)
    trace_r = root.moments.cov_DD.trace().to(device)
    roots_W = torch.stack(
        [
            _root_trace(projected_ND, weights_N, root_DD @ shift_D)
            for weights_N, shift_D in zip(weights_WN, shift_WD, strict=True)
        ]
    )
    return (means_W + traces_W + trace_r - 2 * roots_W).tolist()


def _root_trace(projected_ND: Tensor, weights_N: Tensor, mean_D: Tensor) -> Tensor:
    """Return tr (R S R^T)^1/2 of the weighted samples, whose mean of y is `mean_D`."""
    count = weights_N.sum()
    present = weights_N.nonzero()[:, 0]
    scatter_DD = torch.zeros(len(mean_D), len(mean_D), dtype=torch.float64, device=mean_D.device)
    for part in present.split(_BLOCK):
        scatter_DD += _gram(projected_ND[part] * weights_N[part, None].sqrt())
    middle_DD = (scatter_DD - count * torch.outer(mean_D, mean_D)) / (count - 1)
    values_D: Tensor = torch.linalg.eigvalsh(middle_DD)
    return values_D.clamp(min=0).sqrt().sum()


def _gram(rows_BD: Tensor) -> Tensor:
    """Return rows^T rows. NumPy sees that both factors are one matrix and halves the work."""
    if rows_BD.device.type != "cpu":
        return rows_BD.T @ rows_BD
    rows = rows_BD.numpy()
    return torch.from_numpy(rows.T @ rows)


def _frechet(mean_term: Tensor, trace_term: Tensor, clamped_mass: float) -> Frechet:
    value = float(mean_term + trace_term)
    if not math.isfinite(value):
        raise ContractError(f"Frechet distance of finite moments is {value}")
    return Frechet(value=value, mean_term=float(mean_term), trace_term=float(trace_term), clamped_mass=clamped_mass)


def _symmetric(matrix_DD: Tensor) -> Tensor:
    return (matrix_DD + matrix_DD.T) / 2


def _negative_share(values_D: Tensor) -> float:
    """Return the sum of |negative values| over the sum of all; 0 for the zero matrix."""
    total = float(values_D.sum())
    negative = -float(values_D.clamp(max=0).sum())
    return negative / abs(total) if negative else 0.0


def _check(moments: Moments, side: str) -> None:
    dims = len(moments.mean_D)
    if moments.mean_D.dim() != 1 or moments.cov_DD.shape != (dims, dims):
        raise UserError(
            f"{side}: a mean {tuple(moments.mean_D.shape)} and a covariance {tuple(moments.cov_DD.shape)} do not "
            "belong together"
        )
    if moments.mean_D.dtype != torch.float64 or moments.cov_DD.dtype != torch.float64:
        raise ContractError(f"moments of {side} are {moments.mean_D.dtype} and {moments.cov_DD.dtype}, not float64")
    _check_finite(moments.mean_D, f"the mean of {side}")
    _check_finite(moments.cov_DD, f"the covariance of {side}")
    asymmetry = (moments.cov_DD - moments.cov_DD.T).abs().max()
    if asymmetry > _ASYMMETRY * moments.cov_DD.abs().max():
        raise UserError(
            f"the covariance of {side} is not symmetric (by {float(asymmetry):.2g}): it is damaged or not a "
            "covariance; make or fetch the statistics again"
        )


def _check_finite(values: Tensor, name: str) -> None:
    if bool(values.sum().isfinite()):
        return
    bad = int((~values.isfinite()).sum())
    if bad:
        raise UserError(f"{name}: {bad} of {values.numel()} values are NaN or infinite; make them again")


def _check_dims(dims: int, root: ReferenceRoot) -> None:
    if dims != len(root.moments.mean_D):
        raise UserError(_different_dims(dims, len(root.moments.mean_D)))


def _different_dims(samples: int, reference: int) -> str:
    return (
        f"samples have {samples} feature dimensions and the reference {reference}: they come from different extractors "
        "or layers; take a reference made with the samples' extractor"
    )
