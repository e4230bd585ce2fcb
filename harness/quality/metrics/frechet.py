"""Frechet distance of two Gaussians.

FD = |m - m_r|^2 + tr S + tr S_r - 2 tr (S_r^1/2 S S_r^1/2)^1/2, all in float64. The last trace sums the square roots of
the eigenvalues of R S R^T, a symmetric matrix with R^T R = S_r. Every root R of S_r gives these eigenvalues; here it is
triangular, computed once per reference: the Cholesky factor, or for a matrix that has none (of fewer images than
dimensions) S_r^1/2 rotated. Eigenvalues that rounding made negative count as zero; their share is reported.

Accuracy Rounding is below eps c of tr S + tr S_r, c being the condition number of the covariances, and below
         2 sqrt(eps) = 3e-8 of it whatever c is, without full rank too (test_frechet_accuracy.py compares with singular
         values of triangular factors)
Shapes    N samples, M reference images, D features
Range    FD >= 0 up to rounding: equal sets may give -1e-8 of the traces; 0 is best
Source   Dowson & Landau 1982, Heusel et al. 2017 (arXiv:1706.08500)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from arvbench.errors import ContractError, UserError
from arvbench.harness.quality.metrics.moments import Moments, moments_of

_ASYMMETRY = 1e-5
"""Largest |S - S^T| relative to the largest entry; published statistics in fp32 stay far below it."""
_NOT_A_COVARIANCE = 1e-2
"""Largest share of negative eigenvalues in a reference's covariance that rounding errors explain."""
_TILE = 256
"""Rows and columns of a tile that stays in a core's cache."""


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
    """Sum of |negative eigenvalues| of the covariance over its trace; 0 where it has a Cholesky factor."""

    @classmethod
    def of(cls, moments: Moments) -> ReferenceRoot:
        """Compute the root. Raises UserError for moments that are not finite or a matrix that is not a covariance."""
        _check(moments, "the reference")
        symmetric_DD = _symmetric(moments.cov_DD)
        factor_DD, info = torch.linalg.cholesky_ex(symmetric_DD)
        if int(info) == 0:
            return cls(moments=moments, root_DD=factor_DD.T.contiguous(), clamped_mass=0.0)
        values_D, vectors_DD = torch.linalg.eigh(symmetric_DD)
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


def _frechet(mean_term: Tensor, trace_term: Tensor, clamped_mass: float) -> Frechet:
    value = float(mean_term + trace_term)
    if not math.isfinite(value):
        raise ContractError(f"Frechet distance of finite moments is {value}")
    return Frechet(value=value, mean_term=float(mean_term), trace_term=float(trace_term), clamped_mass=clamped_mass)


def _symmetric(matrix_DD: Tensor) -> Tensor:
    return (matrix_DD + matrix_DD.T) / 2


def _negative_share(values_D: Tensor) -> float:
    """Return the sum of |negative values| over the sum of all; 0 for the zero matrix, 1 where the others cancel."""
    total = float(values_D.sum())
    negative = -float(values_D.clamp(max=0).sum())
    if negative == 0:
        return 0.0
    return negative / abs(total) if total else 1.0


def check_features(features_ND: Tensor, root: ReferenceRoot) -> None:
    """Raise UserError for features that are not finite or of another D than the reference, and for fewer than two."""
    _check_dims(features_ND.shape[1], root)
    _check_finite(features_ND, "features of the samples")
    if len(features_ND) < 2:
        raise UserError(f"a covariance needs at least 2 images, there are {len(features_ND)}")


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
    asymmetry = _asymmetry(moments.cov_DD)
    if asymmetry > 0 and asymmetry > _ASYMMETRY * float(moments.cov_DD.abs().max()):
        raise UserError(
            f"the covariance of {side} is not symmetric (by {asymmetry:.2g}): it is damaged or not a "
            "covariance; make or fetch the statistics again"
        )


def _asymmetry(matrix_DD: Tensor) -> float:
    """Return the largest |S - S^T|, tile by tile: a whole transposed matrix would be read against its order."""
    if len(matrix_DD) <= _TILE:
        return float((matrix_DD - matrix_DD.T).abs().max())
    tiles = [slice(start, start + _TILE) for start in range(0, len(matrix_DD), _TILE)]
    pairs = [(rows, columns) for place, rows in enumerate(tiles) for columns in tiles[place:]]
    return max(float((matrix_DD[r, c] - matrix_DD[c, r].T).abs().max()) for r, c in pairs)


def _check_finite(values: Tensor, name: str) -> None:
    if math.isfinite(float(values.sum())):
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
