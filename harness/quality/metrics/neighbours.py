"""Precision and recall, density and coverage: who lies within reach of the other set's nearest neighbours.

An image's ball reaches to its k-th nearest neighbour in its own set: the (k + 1)-th smallest distance, itself included.

precision  share of samples in a ball of the reference     recall    share of the reference in a ball of the samples
density    balls of the reference over each sample, / k    coverage  share of reference balls that hold a sample

Arithmetic of the distances
fp16-blocks  ADM's evaluator: squared distances in fp16, see `_Fp16Distances`; ties under <= raise P and R by ~0.002
fp32         squared distances |u|^2 - 2 u.v + |v|^2, all in fp32: what fp16-blocks falls back to. The differences lose
             digits, about 1e-7 (|u|^2 + |v|^2) absolute
euclidean    squared distances in fp64, rounded to fp32, then the root: as prdc has them

No N x N matrix: blocks of 10,000 x 10,000 are worked off in tiles of 1,024 rows, of which each row keeps its k + 1
smallest values.

Shapes   N samples, M reference images, D features; R rows and C columns of a block
Range    0..1; density 0 and up
Source   Kynkaanniemi et al. 2019 (arXiv:1904.06991); Naeem et al. 2020 (arXiv:2002.09797); PROTOCOLS section 1
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from arvbench.errors import UserError
from arvbench.harness.quality.extractors.extractor import full_precision

Arithmetic = Literal["fp16-blocks", "fp32", "euclidean"]
BLOCK = 10_000
"""Rows and columns of a block: in fp16-blocks the unit that falls back to fp32, so part of the definition."""
_TILE = 1024
"""Rows of a block in memory at a time; does not change which values are in fp16."""
_FP16_MAX = 65504.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionRecall:
    precision: float
    recall: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Prdc:
    precision: float
    recall: float
    density: float
    coverage: float


def precision_recall(
    samples_ND: Tensor,
    reference_MD: Tensor,
    k: int = 3,
    *,
    arithmetic: Arithmetic = "fp16-blocks",
    block: int = BLOCK,
    device: torch.device | str = "cpu",
) -> PrecisionRecall:
    """Improved precision and recall of two sets of features, fp32: inside is distance <= radius.

    Beside the features it needs about 0.5 GiB on `device`, whatever N and M. Raises UserError for fewer than k + 1
    images on a side, different D, or features that are not finite.
    """
    _check(samples_ND, reference_MD, k)
    device = torch.device(device)
    with full_precision(device):
        reference_radii_M = _radii(reference_MD, k, arithmetic, block, device)
        samples_radii_N = _radii(samples_ND, k, arithmetic, block, device)
        inside_N = torch.zeros(len(samples_ND), dtype=torch.bool, device=device)
        covered_M = torch.zeros(len(reference_MD), dtype=torch.bool, device=device)
        for tile in _tiles(reference_MD, samples_ND, arithmetic, block, device):
            inside_N[tile.columns] |= (tile.distances_RC <= reference_radii_M[tile.rows, None]).any(dim=0)
            covered_M[tile.rows] |= (tile.distances_RC <= samples_radii_N[tile.columns]).any(dim=1)
    return PrecisionRecall(precision=_share(inside_N), recall=_share(covered_M))


def density_coverage(
    samples_ND: Tensor,
    reference_MD: Tensor,
    k: int = 5,
    *,
    arithmetic: Arithmetic = "euclidean",
    block: int = BLOCK,
    device: torch.device | str = "cpu",
) -> Prdc:
    """Density and coverage, with precision and recall as the same paper's code has them: inside is distance < radius.

    Beside the features it needs about 0.7 GiB on `device`, whatever N and M. Raises UserError as `precision_recall`.
    """
    _check(samples_ND, reference_MD, k)
    device = torch.device(device)
    with full_precision(device):
        reference_radii_M = _radii(reference_MD, k, arithmetic, block, device)
        samples_radii_N = _radii(samples_ND, k, arithmetic, block, device)
        balls_N = torch.zeros(len(samples_ND), dtype=torch.int64, device=device)
        recalled_M = torch.zeros(len(reference_MD), dtype=torch.bool, device=device)
        covered_M = torch.zeros(len(reference_MD), dtype=torch.bool, device=device)
        for tile in _tiles(reference_MD, samples_ND, arithmetic, block, device):
            within_RC = tile.distances_RC < reference_radii_M[tile.rows, None]
            balls_N[tile.columns] += within_RC.sum(dim=0)
            covered_M[tile.rows] |= within_RC.any(dim=1)
            recalled_M[tile.rows] |= (tile.distances_RC < samples_radii_N[tile.columns]).any(dim=1)
    return Prdc(
        precision=_share(balls_N > 0),
        recall=_share(recalled_M),
        density=float(balls_N.double().mean()) / k,
        coverage=_share(covered_M),
    )


class _Tile(NamedTuple):
    rows: slice
    columns: slice
    distances_RC: Tensor
    """fp32."""


def _radii(features_ND: Tensor, k: int, arithmetic: Arithmetic, block: int, device: torch.device) -> Tensor:
    """(N,) fp32: the (k + 1)-th smallest distance of each image to all of its set, itself included."""
    nearest_Nk = torch.full((len(features_ND), k + 1), torch.inf, device=device)
    for tile in _tiles(features_ND, features_ND, arithmetic, block, device):
        distances_RC = tile.distances_RC
        if distances_RC.shape[1] > k + 1:
            distances_RC = distances_RC.topk(k + 1, dim=1, largest=False, sorted=False).values
        candidates_Rk = torch.cat([nearest_Nk[tile.rows], distances_RC], dim=1)
        nearest_Nk[tile.rows] = candidates_Rk.topk(k + 1, dim=1, largest=False, sorted=False).values
    return nearest_Nk.amax(dim=1)


def _tiles(
    rows_ND: Tensor, columns_MD: Tensor, arithmetic: Arithmetic, block: int, device: torch.device
) -> Iterator[_Tile]:
    """All distances between two sets, tile by tile."""
    for first_row in range(0, len(rows_ND), block):
        u_RD = rows_ND[first_row : first_row + block].to(device, torch.float32)
        for first_column in range(0, len(columns_MD), block):
            v_CD = columns_MD[first_column : first_column + block].to(device, torch.float32)
            distances = _block(u_RD, v_CD, arithmetic)
            for start in range(0, len(u_RD), _TILE):
                stop = min(start + _TILE, len(u_RD))
                rows = slice(first_row + start, first_row + stop)
                columns = slice(first_column, first_column + len(v_CD))
                yield _Tile(rows, columns, distances.tile(start, stop))


def _block(u_RD: Tensor, v_CD: Tensor, arithmetic: Arithmetic) -> _Distances | _Fp16Distances:
    if arithmetic == "euclidean":
        return _Distances(u_RD.double(), v_CD.double(), root=True)
    if arithmetic == "fp32":
        return _Distances(u_RD, v_CD)
    emulated = _Fp16Distances(u_RD, v_CD)
    return emulated if emulated.all_finite() else _Distances(u_RD, v_CD)


class _Distances:
    """Distances of one block in the type of its features; squared unless `root`."""

    def __init__(self, u_RD: Tensor, v_CD: Tensor, *, root: bool = False) -> None:
        self._u_RD, self._v_CD, self._root = u_RD, v_CD, root
        self._uu_R, self._vv_C = u_RD.square().sum(dim=1), v_CD.square().sum(dim=1)

    def tile(self, start: int, stop: int) -> Tensor:
        """(stop - start, C) fp32."""
        distances_RC = (self._u_RD[start:stop] @ self._v_CD.T).mul_(-2)
        distances_RC = distances_RC.add_(self._uu_R[start:stop, None]).add_(self._vv_C).float().clamp_(min=0)
        return distances_RC.sqrt_() if self._root else distances_RC


class _Fp16Distances:
    """Squared distances of one block as a GPU gives them in fp16: max(uu - 2 uv + vv, 0).

    Features are cast to fp16. Squares of uu and vv are rounded to fp16, their sum is taken in fp32 and rounded to fp16;
    uv is accumulated in fp32 and rounded to fp16, as GEMMs do it; then every operation rounds to fp16. The evaluator
    uses a block only when all of it is finite: a value above 65504 sends the whole block to fp32.
    Minus infinity, from 2 uv alone, is clamped to 0 before that question, as there.
    """

    def __init__(self, u_RD: Tensor, v_CD: Tensor) -> None:
        # Products of fp16 values are exact in fp32: a GEMM of these copies is an fp16 GEMM that accumulates in fp32.
        self._u_RD, self._v_CD = u_RD.half().float(), v_CD.half().float()
        self._uu_R, self._vv_C = _fp16_norms(self._u_RD), _fp16_norms(self._v_CD)

    def tile(self, start: int, stop: int) -> Tensor:
        """(stop - start, C) fp32, with values of fp16."""
        return self._half_tile(start, stop).float()

    def _half_tile(self, start: int, stop: int) -> Tensor:
        uv_RC = (self._u_RD[start:stop] @ self._v_CD.T).half()
        return (self._uu_R[start:stop, None] - 2 * uv_RC).add_(self._vv_C).clamp_(min=0)

    def all_finite(self) -> bool:
        """Whether no distance of the block overflows, from the norms where they tell."""
        largest_u, largest_v = float(self._uu_R.max()), float(self._vv_C.max())
        if not (math.isfinite(largest_u) and math.isfinite(largest_v)):
            return False
        # |2 uv| <= 2 sqrt(uu vv) <= uu + vv; the margin is for the roundings on the way.
        if 2 * (largest_u + largest_v) < 0.99 * _FP16_MAX:
            return True
        rows = len(self._uu_R)
        return all(
            bool(self._half_tile(start, min(start + _TILE, rows)).isfinite().all()) for start in range(0, rows, _TILE)
        )


def _fp16_norms(features_BD: Tensor) -> Tensor:
    """(B,) fp16 sums of squares of values of fp16 in fp32, in blocks of rows."""
    return torch.cat([part.square().half().float().sum(dim=1).half() for part in features_BD.split(_TILE)])


def _share(inside: Tensor) -> float:
    return float(inside.double().mean())


def _check(samples_ND: Tensor, reference_MD: Tensor, k: int) -> None:
    if k < 1:
        raise UserError(f"a neighbourhood has at least 1 neighbour, not {k}")
    for features_ND, what in ((samples_ND, "samples"), (reference_MD, "reference images")):
        if len(features_ND) < k + 1:
            raise UserError(
                f"precision and recall with k = {k} need at least {k + 1} {what}, there are {len(features_ND)}"
            )
        bad = sum(int((~part_BD.isfinite().all(dim=1)).sum()) for part_BD in features_ND.split(BLOCK))
        if bad:
            raise UserError(f"features of {bad} of {len(features_ND)} {what} are NaN or infinite: extract them again")
    if samples_ND.shape[1] != reference_MD.shape[1]:
        raise UserError(
            f"samples have {samples_ND.shape[1]} feature dimensions and the reference {reference_MD.shape[1]}: take a "
            "reference made with the samples' extractor"
        )
