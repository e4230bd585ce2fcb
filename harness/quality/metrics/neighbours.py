"""Precision and recall, density and coverage: images within reach of the other set's nearest neighbours.

An image's ball reaches to its k-th nearest neighbour in its own set: the (k + 1)-th smallest distance, itself included.

precision  share of samples in a ball of the reference     recall    share of the reference in a ball of the samples
density    balls of the reference over each sample, / k    coverage  share of reference balls that contain a sample

Arithmetic of the distances
fp16-blocks  ADM's evaluator: squared distances in fp16, see `_Fp16Block`; ties under <= raise P and R by ~0.002
fp32         squared distances |u|^2 - 2 u.v + |v|^2, all in fp32; the fallback of fp16-blocks. Cancellation costs about
             1e-7 (|u|^2 + |v|^2) absolute
euclidean    squared distances in fp64, rounded to fp32, then the root, as in the prdc package

No N x N matrix: blocks of 10,000 x 10,000 are computed in tiles of 1,024 rows, and each row keeps its k + 1 smallest
values.

Shapes   N samples, M reference images, D features; R rows and C columns of a block
Range    0..1; density 0 and up
Source   Kynkaanniemi et al. 2019 (arXiv:1904.06991); Naeem et al. 2020 (arXiv:2002.09797); fp16-blocks:
         openai/guided-diffusion, evaluations/evaluator.py
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from arvbench.errors import UserError
from arvbench.harness.quality.extractors.extractor import full_precision

Arithmetic = Literal["fp16-blocks", "fp32", "euclidean"]
BLOCK = 10_000
"""Rows and columns of a block: in fp16-blocks the unit that falls back to fp32, so part of the definition."""
_FP16_MAX = 65504.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionRecall:
    """Two shares, 0..1."""

    precision: float
    recall: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Prdc:
    """Three shares, 0..1, and the density, 0 and up."""

    precision: float
    recall: float
    density: float
    coverage: float


class Tile(NamedTuple):
    """Distances of some rows to some columns."""

    rows: slice
    columns: slice
    distances_RC: Tensor
    """fp32."""


@dataclass(frozen=True, slots=True)
class Distances:
    """All distances between two sets, in one arithmetic, tile by tile."""

    arithmetic: Arithmetic
    _: KW_ONLY
    block: int = BLOCK
    tile: int = 1024
    """Rows of a block in memory at a time; changes neither the values nor the fallback to fp32."""
    device: torch.device | str = "cpu"

    def tiles(self, rows_ND: Tensor, columns_MD: Tensor) -> Iterator[Tile]:
        """Yield the distances from every row to every column, in tiles."""
        for first_row in range(0, len(rows_ND), self.block):
            u_RD = rows_ND[first_row : first_row + self.block].to(self.device, torch.float32)
            for first_column in range(0, len(columns_MD), self.block):
                v_CD = columns_MD[first_column : first_column + self.block].to(self.device, torch.float32)
                block = self._block(u_RD, v_CD)
                for start in range(0, len(u_RD), self.tile):
                    stop = min(start + self.tile, len(u_RD))
                    rows = slice(first_row + start, first_row + stop)
                    columns = slice(first_column, first_column + len(v_CD))
                    yield Tile(rows, columns, block.distances(start, stop))

    def radii(self, features_ND: Tensor, k: int) -> Tensor:
        """Return (N,) fp32: the (k + 1)-th smallest distance of each image to all of its set, itself included."""
        nearest_Nk = torch.full((len(features_ND), k + 1), torch.inf, device=self.device)
        for tile in self.tiles(features_ND, features_ND):
            distances_RC = tile.distances_RC
            if distances_RC.shape[1] > k + 1:
                distances_RC = distances_RC.topk(k + 1, dim=1, largest=False, sorted=False).values
            candidates_Rk = torch.cat([nearest_Nk[tile.rows], distances_RC], dim=1)
            nearest_Nk[tile.rows] = candidates_Rk.topk(k + 1, dim=1, largest=False, sorted=False).values
        return nearest_Nk.amax(dim=1)

    def _block(self, u_RD: Tensor, v_CD: Tensor) -> _Block | _Fp16Block:
        if self.arithmetic == "euclidean":
            return _Block(u_RD.double(), v_CD.double(), root=True)
        if self.arithmetic == "fp16-blocks":
            emulated = _Fp16Block(u_RD, v_CD, self.tile)
            if emulated.all_finite():
                return emulated
        return _Block(u_RD, v_CD)


def precision_recall(
    samples_ND: Tensor, reference_MD: Tensor, k: int = 3, distances: Distances = Distances("fp16-blocks")
) -> PrecisionRecall:
    """Return improved precision and recall of two sets of features, fp32; inside means distance <= radius.

    Takes about 0.5 GiB on the device besides the features, for any N and M. Raises UserError for fewer than k + 1
    images on a side, different D, or features that are not finite.
    """
    _check(samples_ND, reference_MD, k)
    with full_precision(torch.device(distances.device)):
        reference_radii_M, samples_radii_N = distances.radii(reference_MD, k), distances.radii(samples_ND, k)
        inside_N = torch.zeros_like(samples_radii_N, dtype=torch.bool)
        covered_M = torch.zeros_like(reference_radii_M, dtype=torch.bool)
        for tile in distances.tiles(reference_MD, samples_ND):
            inside_N[tile.columns] |= (tile.distances_RC <= reference_radii_M[tile.rows, None]).any(dim=0)
            covered_M[tile.rows] |= (tile.distances_RC <= samples_radii_N[tile.columns]).any(dim=1)
    return PrecisionRecall(precision=_share(inside_N), recall=_share(covered_M))


def density_coverage(
    samples_ND: Tensor, reference_MD: Tensor, k: int = 5, distances: Distances = Distances("euclidean")
) -> Prdc:
    """Return density and coverage, with precision and recall as in their paper's code; inside means distance < radius.

    Takes about 0.7 GiB on the device besides the features, for any N and M. Raises UserError as `precision_recall`.
    """
    _check(samples_ND, reference_MD, k)
    with full_precision(torch.device(distances.device)):
        reference_radii_M, samples_radii_N = distances.radii(reference_MD, k), distances.radii(samples_ND, k)
        balls_N = torch.zeros_like(samples_radii_N, dtype=torch.int64)
        recalled_M = torch.zeros_like(reference_radii_M, dtype=torch.bool)
        covered_M = torch.zeros_like(reference_radii_M, dtype=torch.bool)
        for tile in distances.tiles(reference_MD, samples_ND):
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


class _Block:
    """Distances of one block in the type of its features; squared unless `root`."""

    def __init__(self, u_RD: Tensor, v_CD: Tensor, *, root: bool = False) -> None:
        self._u_RD, self._v_CD, self._root = u_RD, v_CD, root
        self._uu_R, self._vv_C = u_RD.square().sum(dim=1), v_CD.square().sum(dim=1)

    def distances(self, start: int, stop: int) -> Tensor:
        """Return rows start..stop-1, (stop - start, C) fp32."""
        distances_RC = (self._u_RD[start:stop] @ self._v_CD.T).mul_(-2)
        distances_RC = distances_RC.add_(self._uu_R[start:stop, None]).add_(self._vv_C).float().clamp_(min=0)
        return distances_RC.sqrt_() if self._root else distances_RC


class _Fp16Block:
    """Squared distances of one block as a GPU computes them in fp16: max(uu - 2 uv + vv, 0).

    Features are cast to fp16. Squares of uu and vv are rounded to fp16, summed in fp32 and rounded to fp16; uv is
    accumulated in fp32 and rounded to fp16, as in a GEMM; every later operation rounds to fp16. The evaluator
    uses a block only when all its distances are finite: a value above 65504 sends the whole block to fp32. Minus
    infinity, from 2 uv alone, is clamped to 0 before that check, as in the evaluator.
    """

    def __init__(self, u_RD: Tensor, v_CD: Tensor, tile: int) -> None:
        # Products of fp16 values are exact in fp32: a GEMM of these copies is an fp16 GEMM that accumulates in fp32.
        self._u_RD, self._v_CD, self._tile = u_RD.half().float(), v_CD.half().float(), tile
        self._uu_R, self._vv_C = (
            torch.cat([part.square().half().float().sum(dim=1).half() for part in features_BD.split(tile)])
            for features_BD in (self._u_RD, self._v_CD)
        )

    def distances(self, start: int, stop: int) -> Tensor:
        """Return rows start..stop-1, (stop - start, C) fp32, with values of fp16."""
        return self._half(start, stop).float()

    def _half(self, start: int, stop: int) -> Tensor:
        uv_RC = (self._u_RD[start:stop] @ self._v_CD.T).half()
        return (self._uu_R[start:stop, None] - 2 * uv_RC).add_(self._vv_C).clamp_(min=0)

    def all_finite(self) -> bool:
        """Return True when no distance overflows. Norms usually decide it, else all distances are computed."""
        largest_u, largest_v = float(self._uu_R.max()), float(self._vv_C.max())
        if not (math.isfinite(largest_u) and math.isfinite(largest_v)):
            return False
        # |2 uv| <= 2 sqrt(uu vv) <= uu + vv; the margin covers the rounding errors.
        if 2 * (largest_u + largest_v) < 0.99 * _FP16_MAX:
            return True
        rows = len(self._uu_R)
        return all(
            bool(self._half(start, min(start + self._tile, rows)).isfinite().all())
            for start in range(0, rows, self._tile)
        )


def _share(inside: Tensor) -> float:
    return float(inside.double().mean())


def _check(samples_ND: Tensor, reference_MD: Tensor, k: int) -> None:
    if k < 1:
        raise UserError(f"a neighbourhood has at least 1 neighbour, not {k}")
    for features_ND, side in ((samples_ND, "samples"), (reference_MD, "reference images")):
        if len(features_ND) < k + 1:
            raise UserError(
                f"precision and recall with k = {k} need at least {k + 1} {side}, there are {len(features_ND)}"
            )
        bad = sum(int((~part_BD.isfinite().all(dim=1)).sum()) for part_BD in features_ND.split(BLOCK))
        if bad:
            raise UserError(f"features of {bad} of {len(features_ND)} {side} are NaN or infinite: extract them again")
    if samples_ND.shape[1] != reference_MD.shape[1]:
        raise UserError(
            f"samples have {samples_ND.shape[1]} feature dimensions and the reference {reference_MD.shape[1]}: take a "
            "reference made with the samples' extractor"
        )
