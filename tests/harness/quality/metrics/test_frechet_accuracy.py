"""Rounding of the Frechet distance by condition number, against singular values of triangular factors.

With X^T X and Y^T Y the covariances and X = Q R, the trace of the root of their product is the sum of the singular
values of R_x R_y^T. No covariance is formed and no root of a small eigenvalue is taken, so the sum is exact to 1e-15 of
the traces; 50 digits confirm that in 8 dimensions.

Shapes   N, M images, D features
"""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from torch import Tensor

from arvbench.harness.quality.metrics.frechet import ReferenceRoot, frechet_distance, frechet_of_features
from arvbench.harness.quality.metrics.moments import moments_of

EPS = torch.finfo(torch.float64).eps
CONDITIONS = [1e2, 1e4, 1e6, 1e8, 1e10, 1e12, 1e14]


def tolerance(condition: float) -> float:
    """Largest error relative to the traces of both covariances: what the module states."""
    return min(EPS * condition, 2 * math.sqrt(EPS))


def two_sets(dims: int, condition: float, turned: bool, ranks: tuple[int, int] | None = None) -> tuple[Tensor, Tensor]:
    """Features whose covariances have that condition number, or these ranks; `turned`: in different directions."""
    sets = []
    for side, count in enumerate((3 * dims, 4 * dims)):
        generator = torch.Generator().manual_seed(side)
        noise_ND = torch.randn(count, dims, generator=generator, dtype=torch.float64)
        columns_ND = torch.linalg.qr(noise_ND - noise_ND.mean(dim=0)).Q
        turn = torch.Generator().manual_seed(10 + side if turned else 10)
        directions_DD = torch.linalg.qr(torch.randn(dims, dims, generator=turn, dtype=torch.float64)).Q
        scales_D = torch.logspace(0, -math.log10(condition) / 2, dims, dtype=torch.float64)
        if ranks is not None:
            scales_D[ranks[side] :] = 0
        sets.append(columns_ND * scales_D * math.sqrt(count) @ directions_DD.T + 0.1 * side)
    return sets[0], sets[1]


def by_triangles(x_ND: Tensor, y_MD: Tensor) -> tuple[float, float]:
    """Return the distance and the sum of both traces."""
    shift_D = x_ND.mean(dim=0) - y_MD.mean(dim=0)
    r_DD, q_DD = (torch.linalg.qr((z - z.mean(dim=0)) / math.sqrt(len(z) - 1), mode="r").R for z in (x_ND, y_MD))
    traces = float(r_DD.square().sum() + q_DD.square().sum())
    return float(shift_D @ shift_D) + traces - 2 * float(torch.linalg.svdvals(r_DD @ q_DD.T).sum()), traces


def in_50_digits(x_ND: Tensor, y_MD: Tensor) -> float:
    with mpmath.workdps(50):
        triangles, means, traces = [], [], mpmath.mpf(0)
        for z in (x_ND, y_MD):
            rows = mpmath.matrix(z.tolist())
            mean_D = [mpmath.fsum(rows[:, d]) / len(z) for d in range(rows.cols)]
            for n in range(rows.rows):
                for d in range(rows.cols):
                    rows[n, d] = (rows[n, d] - mean_D[d]) / mpmath.sqrt(len(z) - 1)
            triangles.append(mpmath.qr(rows, mode="skinny")[1])
            means.append(mean_D)
            traces += mpmath.fsum(value * value for value in rows)
        roots = mpmath.svd_r(triangles[0] * triangles[1].T, compute_uv=False)
        shift = mpmath.fsum((a - b) ** 2 for a, b in zip(*means, strict=True))
        return float(shift + traces - 2 * mpmath.fsum(roots))


@pytest.mark.parametrize("turned", [False, True], ids=["same directions", "other directions"])
@pytest.mark.parametrize("condition", CONDITIONS, ids="{:.0e}".format)
def test_error_by_condition_number(condition: float, turned: bool) -> None:
    for dims in (8, 64, 192):
        x_ND, y_MD = two_sets(dims, condition, turned)
        exact, traces = by_triangles(x_ND, y_MD)
        samples, reference = moments_of([x_ND]), moments_of([y_MD])
        for found in (frechet_distance(samples, reference), frechet_distance(samples, ReferenceRoot.of(reference))):
            assert found.value == pytest.approx(exact, rel=0, abs=tolerance(condition) * traces)


@pytest.mark.parametrize("turned", [False, True], ids=["same directions", "other directions"])
@pytest.mark.parametrize("ranks", [(5, 5), (20, 64), (64, 20), (20, 30), (63, 64), (1, 64)], ids=str)
def test_error_without_full_rank(ranks: tuple[int, int], turned: bool) -> None:
    x_ND, y_MD = two_sets(64, 1e4, turned, ranks)
    exact, traces = by_triangles(x_ND, y_MD)
    found = frechet_distance(moments_of([x_ND]), moments_of([y_MD])).value
    assert found == pytest.approx(exact, rel=0, abs=tolerance(math.inf) * traces)


@pytest.mark.parametrize("counts", [(30, 40), (30, 200), (200, 30), (2, 3)], ids=str)
def test_error_with_few_images(counts: tuple[int, int]) -> None:
    """Features of fewer images than dimensions on both sides need no covariance, and have no error of its roots."""
    generator = torch.Generator().manual_seed(0)
    x_ND, y_MD = (torch.randn(count, 64, generator=generator, dtype=torch.float64) for count in counts)
    exact, traces = by_triangles(x_ND, y_MD)
    allowed = 1e-14 if max(counts) < 64 else tolerance(math.inf)
    assert frechet_of_features(x_ND, y_MD).value == pytest.approx(exact, rel=0, abs=allowed * traces)


@pytest.mark.parametrize("condition", CONDITIONS, ids="{:.0e}".format)
def test_the_judge_is_exact(condition: float) -> None:
    for turned in (False, True):
        x_ND, y_MD = two_sets(8, condition, turned)
        exact, traces = by_triangles(x_ND, y_MD)
        assert exact == pytest.approx(in_50_digits(x_ND, y_MD), rel=0, abs=4e-15 * traces)
