"""Intervals of a Frechet distance: how much would it change with other samples of equal number?

Jackknife   The distance without one image, exactly, for every image. To leave out rows of a matrix Y changes the sum of
            its singular values by an integral of one determinant,
                sum s(Y) - sum s(Y without i) = -1/pi * integral over u > 0 of log det(I - C K(u)),
            where K(u) = y_i (u^2 + Y^T Y)^-1 y_j for the rows left out, and C = 1 + 1/(N - r) moves the mean as well.
            One eigenproblem of min(N, D) gives K for all images and u.
Bootstrap   The distance of resamples with replacement. Each has about 63 % distinct images, which adds spread: twice
            the true one at N = 2.5 D (D = 128), four times at N = 0.8 D.

The jackknife counts the second-order part of the variance twice (Efron & Stein 1981). That part is all of it when both
sets come from one distribution. Second differences Q, from pairs of images left out, estimate it; 1 - 2^(-N/D) of it is
subtracted, since terms of higher order make up for more and more of it at and below N = D.

The interval is skewed as the distance is: long-tailed features give sets without the rare images a small distance with
a small error. The third cumulant, sum of d_i^3 + 3 N (N - 1) mean of d_i d_j Q_ij with d_i the change by image i, shows
it (0.8 of a true 0.9). The ends are those of a constant plus a gamma variable of the same variance and half of that
skewness, whose scale is unknown, with Student's quantile. Both choices were made by simulation for N from 0.5 D to
25 D, once for all distributions; docs/performance.md has the coverage by cell (pytest -m slow
tests/harness/quality/metrics/test_frechet_spread.py).

Shapes   N samples, D features, P pairs of samples, U nodes of the integral
Source   Efron & Stein 1981, "The jackknife estimate of variance"; the integral: log det(1 + l/u^2) over u is pi sqrt(l)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from arvbench.errors import UserError
from arvbench.harness.quality.metrics.frechet import ReferenceRoot, check_features
from arvbench.harness.quality.metrics.intervals import NORMAL_95
from arvbench.harness.quality.metrics.weighted_frechet import distances_of_weightings, gram

_BLOCK = 4096
"""Rows at a time."""
_PAIRS = 1000
_NULL = 1e-12
"""Eigenvalues below this share of the largest are rounding."""
_STEP = 0.5
"""Distance of the nodes of the integral in log u: twice as many change a distance by less than 1e-6 of it."""
_FEWEST = 8
"""Fewest images that show a spread."""
_TINY = 1e-300
_LEAST_SKEWNESS, _MOST_SKEWNESS = 0.01, 0.5
"""Below the first an interval is symmetric; the second is that of a distance with a skewness of 1."""


class _Cumulants(NamedTuple):
    """Moments that the jackknife finds of a distance, or of a mean of independent ones."""

    value: float
    variance: float
    first_order: float
    """Variance before the second-order excess is subtracted, the scale of the skewness."""
    third: float
    freedom: int
    """Degrees of freedom of the variance."""


class Spread(NamedTuple):
    """Sampling error of a distance."""

    interval: tuple[float, float]
    """95 %, of the distance expected for this number of samples; not below 0."""
    std: float
    """Standard deviation."""
    method: Literal["skewed jackknife", "bootstrap"]
    """In records also "jackknife": a log-normal interval, with another share of the second-order part."""


def jackknife_frechet(
    features_ND: Tensor,
    root: ReferenceRoot,
    *,
    strata_N: Tensor | None = None,
    device: torch.device | str = "cpu",
) -> Spread | None:
    """Return the spread of the distance expected for N samples, by leaving out images; the reference is exact.

    `strata_N` are class labels, for samples with a fixed number of images per class: only differences within a class
    count then. None for fewer than 8 samples. Raises UserError for features that are not finite or of another D.

    Work: two to three products of N D^2 and an eigenproblem of min(N, D), in float64.
    """
    check_features(features_ND, root)
    if len(features_ND) < _FEWEST:
        return None
    moments = root.moments
    against = Against(root.root_DD, moments.mean_D, float(moments.cov_DD.trace()), torch.device(device))
    return _spread(_jackknife(LeaveOut(features_ND, against), strata_N))


def mean_over_classes(classes: Sequence[tuple[Tensor, Tensor]], *, device: torch.device | str = "cpu") -> Spread | None:
    """Return the spread of the mean, over classes, of the distances of (samples (n, D), reference (m, D)) pairs.

    Numbers per class count as fixed. None when a class has fewer than 8 samples. Raises as `jackknife_frechet`.
    """
    parts = []
    for samples_nD, reference_mD in classes:
        if len(samples_nD) < _FEWEST:
            return None
        parts.append(_jackknife(LeaveOut(samples_nD, against_images(reference_mD, torch.device(device))), None))
    count = len(parts)
    mean = _Cumulants(
        value=sum(part.value for part in parts) / count,
        variance=sum(part.variance for part in parts) / count**2,
        first_order=sum(part.first_order for part in parts) / count**2,
        third=sum(part.third for part in parts) / count**3,
        freedom=sum(part.freedom for part in parts),
    )
    return _spread(mean)


def _jackknife(sets: LeaveOut, strata_N: Tensor | None) -> _Cumulants:
    count, device = sets.count, sets.device
    singles_N = sets.without_each()
    groups_N = torch.zeros(count, dtype=torch.int64) if strata_N is None else strata_N.cpu()
    _, groups_N, sizes_C = groups_N.unique(return_inverse=True, return_counts=True)
    groups_N, sizes_C = groups_N.to(device), sizes_C.to(device, torch.float64)
    means_C = torch.zeros_like(sizes_C).index_add_(0, groups_N, singles_N) / sizes_C
    changes_N = means_C[groups_N] - singles_N
    squares_C = torch.zeros_like(sizes_C).index_add_(0, groups_N, changes_N.square())
    # A class of one image has no spread of its own.
    scale_C = torch.where(sizes_C > 1, sizes_C / (sizes_C - 1), 0.0) * ((count - 1) / count) ** 2
    first = float((squares_C * scale_C).sum())

    generator = torch.Generator().manual_seed(0)
    i_P = torch.randint(count, (_PAIRS,), generator=generator)
    j_P = (i_P + 1 + torch.randint(count - 1, (_PAIRS,), generator=generator)) % count
    pairs_P2 = torch.stack([i_P, j_P], dim=1).to(device)
    differences_P = sets.value - singles_N[pairs_P2].sum(dim=1) + sets.without_pairs(pairs_P2)
    pairs = count * (count - 1)
    second = float(differences_P.square().mean()) * pairs / 2
    crossed = float((changes_N[pairs_P2].prod(dim=1) * differences_P).mean())
    # Of terms up to the second order, the jackknife finds at most twice the variance.
    variance = max(first - (1 - 2 ** (-count / sets.dims)) * second, first / 2)
    third = float(changes_N.pow(3).sum()) + 3 * pairs * crossed
    return _Cumulants(sets.value, variance, first, third, count - len(sizes_C))


def _spread(found: _Cumulants) -> Spread:
    std = math.sqrt(found.variance)
    skewness = found.third / found.first_order**1.5 if found.first_order > 0 else 0.0
    return Spread(_interval(found.value, std, skewness / 2, max(1, found.freedom)), std, "skewed jackknife")


def _interval(value: float, std: float, skewness: float, freedom: int) -> tuple[float, float]:
    """Return the 95 % interval of c + m, when value = c + g and g is a gamma variable of mean m and known shape."""
    from scipy.special import gammaincinv, stdtrit

    std *= float(stdtrit(freedom, 0.975)) / NORMAL_95
    shape = 4 / min(max(skewness, _LEAST_SKEWNESS), _MOST_SKEWNESS) ** 2
    mean = std * math.sqrt(shape)
    low, high = (value + mean * (shape / float(gammaincinv(shape, share)) - 1) for share in (0.975, 0.025))
    # A distance is not negative: near 0 the lower end is that of a log-normal variable.
    return max(0.0, low, value * math.exp(-NORMAL_95 * std / value) if value > 0 else 0.0), max(0.0, high)


class Against(NamedTuple):
    """Reference of the distances, with any root R (K, D) of its covariance: R^T R."""

    root_KD: Tensor
    mean_D: Tensor
    trace: float
    device: torch.device


def against_images(reference_MD: Tensor, device: torch.device) -> Against:
    """Return the reference of images (M, D): they are a root themselves, smaller than another for M < D."""
    mean_D = reference_MD.double().mean(dim=0)
    root_MD = (reference_MD.double() - mean_D) / math.sqrt(len(reference_MD) - 1)
    trace = float(root_MD.square().sum())
    if len(root_MD) > root_MD.shape[1]:
        root_MD = torch.linalg.qr(root_MD, mode="r").R
    return Against(root_MD, mean_D, trace, device)


class LeaveOut:
    """Distances of a set without some of its images."""

    def __init__(self, features_ND: Tensor, against: Against) -> None:
        self.count, self.dims = features_ND.shape
        self.device = against.device
        self._features_ND, self._reference_trace = features_ND, against.trace
        root_KD = against.root_KD.to(self.device)
        sums = [part_BD.to(self.device).double().sum(dim=0) for part_BD in features_ND.split(_BLOCK)]
        self._mean_D = torch.stack(sums).sum(dim=0) / self.count
        self._shift_D = self._mean_D - against.mean_D.to(self.device)
        self._few = self.count <= len(root_KD)
        if self._few:
            # Centred rows add up to zero. The vector of ones is made the last eigenvector, apart from other null ones,
            # which repeated images or features without variance bring.
            projected_NK = self._centred(slice(None)) @ root_KD.T
            products_NN = projected_NK @ projected_NK.T
            values_K, vectors_NK = torch.linalg.eigh(products_NN + (2 * products_NN.trace() / self.count + _TINY))
            values_K, self._vectors_NK = values_K[:-1].clamp(min=0), vectors_NK[:, :-1]
        else:
            scatter_KK = torch.zeros(len(root_KD), len(root_KD), dtype=torch.float64, device=self.device)
            for start in range(0, self.count, _BLOCK):
                scatter_KK += gram(self._centred(slice(start, start + _BLOCK)) @ root_KD.T)
            values_K, vectors_KK = torch.linalg.eigh(scatter_KK)
            values_K, self._projection_DK = values_K.clamp(min=0), root_KD.T @ vectors_KK
        self._singular_sum = float(values_K.sqrt().sum())
        self._set_nodes(values_K)
        self._squares_N, self._shifts_N = torch.empty(2, self.count, dtype=torch.float64, device=self.device)
        for start in range(0, self.count, _BLOCK):
            rows = slice(start, start + _BLOCK)
            centred_BD = self._centred(rows)
            self._squares_N[rows] = centred_BD.square().sum(dim=1)
            self._shifts_N[rows] = centred_BD @ self._shift_D
        self._scatter = float(self._squares_N.sum())
        shift = float(self._shift_D.square().sum())
        root_trace = self._singular_sum / math.sqrt(self.count - 1)
        self.value = shift + self._scatter / (self.count - 1) + self._reference_trace - 2 * root_trace

    def _set_nodes(self, values_K: Tensor) -> None:
        """Choose the nodes u of the integral, evenly spaced in log u, around the singular values."""
        largest = float(values_K.max())
        present_K = values_K[values_K > _NULL * largest] if largest > 0 else torch.ones(1, dtype=torch.float64)
        low = math.log(float(present_K.min())) / 2 - 14
        high = math.log(max(largest, float(present_K.max()))) / 2 + 9
        log_U = torch.linspace(low, high, math.ceil((high - low) / _STEP) + 1, dtype=torch.float64)
        self._u_U = log_U.exp().to(self.device)
        self._step = float(log_U[1] - log_U[0])
        squared_U = self._u_U.square()
        if self._few:
            # The complement 1 - K, without the vector of ones, whose part cancels against that of the moved mean.
            self._kernel_KU = squared_U / (values_K[:, None] + squared_U)
        else:
            self._kernel_KU = 1 / (values_K[:, None] + squared_U)
        self._values_K = values_K

    def _centred(self, rows: slice | Tensor) -> Tensor:
        centred_BD: Tensor = self._features_ND[rows].to(self.device).double() - self._mean_D
        return centred_BD

    def _coordinates(self, rows: slice | Tensor) -> Tensor:
        """Return rows (B, K) in the basis of the eigenvectors: unit vectors for few images, else projected features."""
        coordinates_BK: Tensor = self._vectors_NK[rows] if self._few else self._centred(rows) @ self._projection_DK
        return coordinates_BK

    def without_each(self) -> Tensor:
        """Return the distance of the set without image i, (N,) fp64."""
        count, lost_N = self.count, torch.empty(self.count, dtype=torch.float64, device=self.device)
        for start in range(0, count, _BLOCK):
            rows = slice(start, start + _BLOCK)
            squares_BK = self._coordinates(rows).square()
            kernel_BU = squares_BK @ self._kernel_KU
            if self._few:
                determinant_BU = count / (count - 1) * kernel_BU
                squares_BK = squares_BK * self._values_K
            else:
                determinant_BU = 1 - count / (count - 1) * kernel_BU
            lost_N[rows] = self._integral(determinant_BU, count / (count - 1) * squares_BK.sum(dim=1))
        scatter_N = self._scatter - count / (count - 1) * self._squares_N
        shift = self._shift_D.square().sum()
        shift_N = shift - 2 * self._shifts_N / (count - 1) + self._squares_N / (count - 1) ** 2
        return self._distance(self._singular_sum - lost_N, scatter_N, shift_N, count - 1)

    def without_pairs(self, pairs_P2: Tensor) -> Tensor:
        """Return the distance of the set without two images, (P,) fp64."""
        count, (i_P, j_P) = self.count, pairs_P2.T
        a_PK, b_PK = self._coordinates(i_P), self._coordinates(j_P)
        aa_PU, ab_PU, bb_PU = (x_PK @ self._kernel_KU for x_PK in (a_PK.square(), a_PK * b_PK, b_PK.square()))
        moved = 1 / (count - 2)
        if self._few:
            determinant_PU = count / (count - 2) * (aa_PU * bb_PU - ab_PU.square())
            a_PK, b_PK = a_PK * self._values_K.sqrt(), b_PK * self._values_K.sqrt()
        else:
            own, other = 1 + moved, moved
            determinant_PU = (1 - own * aa_PU - other * ab_PU) * (1 - own * bb_PU - other * ab_PU)
            determinant_PU -= (own * ab_PU + other * bb_PU) * (own * ab_PU + other * aa_PU)
        norms_P = a_PK.square().sum(dim=1) + b_PK.square().sum(dim=1) + moved * (a_PK + b_PK).square().sum(dim=1)
        lost_P = self._integral(determinant_PU, norms_P)
        x_PD, y_PD = self._centred(i_P), self._centred(j_P)
        both_P = (x_PD + y_PD).square().sum(dim=1)
        scatter_P = self._scatter - self._squares_N[i_P] - self._squares_N[j_P] - moved * both_P
        shift_P = self._shift_D.square().sum() - 2 * moved * (self._shifts_N[i_P] + self._shifts_N[j_P])
        return self._distance(self._singular_sum - lost_P, scatter_P, shift_P + moved**2 * both_P, count - 2)

    def _integral(self, determinant_BU: Tensor, norms_B: Tensor) -> Tensor:
        """Return the lost part of the sum of singular values; beyond the last node, the integrand is norm / u^2."""
        integrand_BU = -determinant_BU.clamp(min=_TINY).log() * self._u_U
        inner_B = self._step * (integrand_BU.sum(dim=1) - (integrand_BU[:, 0] + integrand_BU[:, -1]) / 2)
        return (inner_B + integrand_BU[:, 0] + norms_B / self._u_U[-1]) / math.pi

    def _distance(self, singular_sum: Tensor, scatter: Tensor | float, shift: Tensor | float, count: int) -> Tensor:
        return shift + scatter / (count - 1) + self._reference_trace - 2 * singular_sum / math.sqrt(count - 1)


def bootstrap_frechet(
    features_ND: Tensor,
    root: ReferenceRoot,
    replicates: int = 100,
    seed: int = 0,
    *,
    strata_N: Tensor | None = None,
    device: torch.device | str = "cpu",
) -> Spread:
    """Return the spread of the distance over resamples, N of the N samples with replacement; the reference is exact.

    The interval is value + (2.5 % and 97.5 % quantiles of the replicates - their mean), clipped at 0: a resample lies
    further from the reference than the samples, so the replicates are shifted to have the value as their mean.
    `strata_N` are class labels, for samples with a fixed number of images per class: images are then resampled within
    their class.

    Work: per replicate N D^2 multiply-adds in float64 and an eigenvalue problem of D, or one of N where N <= D; 8 N D
    bytes. Raises UserError for features that are not finite, of another D, or fewer than two.
    """
    if replicates < 2:
        raise UserError(f"a bootstrap interval needs at least 2 replicates, not {replicates}")
    generator = torch.Generator().manual_seed(seed)
    count = len(features_ND)
    resamples = (_resample(count, strata_N, generator) for _ in range(replicates))
    weights_WN = torch.stack([torch.ones(count), *(torch.bincount(r, minlength=count).float() for r in resamples)])
    value, *rest = distances_of_weightings(features_ND, root, weights_WN, device)
    replicates_W = torch.tensor(rest, dtype=torch.float64)
    low, high = torch.quantile(replicates_W, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    mean = float(replicates_W.mean())
    return Spread((max(0.0, value + low - mean), value + high - mean), float(replicates_W.std()), "bootstrap")


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
