"""Precision and recall, density and coverage: images within reach of the other set's nearest neighbours.

An image's ball reaches to its k-th nearest neighbour in its own set: the (k + 1)-th smallest distance, itself included.

precision  share of samples in a ball of the reference     recall    share of the reference in a ball of the samples
density    balls of the reference over each sample, / k    coverage  share of reference balls that contain a sample

Arithmetic of the distances
fp16-blocks  ADM's evaluator: squared distances in fp16, see `_Fp16Block`; ties under <= raise P and R by ~0.002
fp32         squared distances |u|^2 - 2 u.v + |v|^2, all in fp32; the fallback of fp16-blocks. Cancellation costs about
             1e-7 (|u|^2 + |v|^2) absolute
euclidean    squared distances in fp64, rounded to fp32, then the root, as in the prdc package

No N x N matrix: blocks of 10,000 x 10,000 are computed in tiles of 512 rows, and each row keeps its k + 1 smallest
values. Within a set, the product of two images serves both of their rows.

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
    tile: int = 512
    """Rows of a block in memory at a time; changes neither the values nor the fallback to fp32."""
    device: torch.device | str = "cpu"

    def tiles(self, rows_ND: Tensor, columns_MD: Tensor) -> Iterator[Tile]:
        """Yield the distances from every row to every column, in tiles."""
        for rows in self._blocks(len(rows_ND)):
            u_RD = rows_ND[rows].to(self.device, torch.float32)
            for columns in self._blocks(len(columns_MD)):
                block = self._block(u_RD, columns_MD[columns].to(self.device, torch.float32))
                yield from self._tiles_of(block, rows, columns)

    def tiles_within(self, features_ND: Tensor) -> Iterator[Tile]:
        """Yield the distances of all pairs of one set, those of `tiles`, from half of its products."""
        blocks = self._blocks(len(features_ND))
        for place, rows in enumerate(blocks):
            u_RD = features_ND[rows].to(self.device, torch.float32)
            own = self._block(u_RD, u_RD)
            yield from self._mirrored(own, rows, own, rows)
            for columns in blocks[place + 1 :]:
                v_CD = features_ND[columns].to(self.device, torch.float32)
                block, mirror = self._block(u_RD, v_CD), self._block(v_CD, u_RD)
                if type(block) is type(mirror):
                    yield from self._mirrored(block, rows, mirror, columns)
                else:  # sums in another order overflow in one of them
                    yield from self._tiles_of(block, rows, columns)
                    yield from self._tiles_of(mirror, columns, rows)

    def radii(self, features_ND: Tensor, k: int) -> Tensor:
        """Return (N,) fp32: the (k + 1)-th smallest distance of each image to all of its set, itself included."""
        nearest_Nk = torch.full((len(features_ND), k + 1), torch.inf, device=self.device)
        for tile in self.tiles_within(features_ND):
            distances_RC = tile.distances_RC
            if distances_RC.shape[1] > k + 1:
                distances_RC = distances_RC.topk(k + 1, dim=1, largest=False, sorted=False).values
            candidates_Rk = torch.cat([nearest_Nk[tile.rows], distances_RC], dim=1)
            nearest_Nk[tile.rows] = candidates_Rk.topk(k + 1, dim=1, largest=False, sorted=False).values
        return nearest_Nk.amax(dim=1)

    def _blocks(self, count: int) -> list[slice]:
        return [slice(start, min(start + self.block, count)) for start in range(0, count, self.block)]

    def _tiles_of(self, block: _Block | _Fp16Block, rows: slice, columns: slice) -> Iterator[Tile]:
        every = slice(0, columns.stop - columns.start)
        for part in _parts(rows, self.tile):
            distances_RC = block.distances(block.products(part, every), part, every)
            yield Tile(_shifted(part, rows), columns, distances_RC)

    def _mirrored(
        self, block: _Block | _Fp16Block, rows: slice, mirror: _Block | _Fp16Block, columns: slice
    ) -> Iterator[Tile]:
        """Yield the tiles of a block and of its mirror image, which is the same block on the diagonal."""
        for part in _parts(rows, self.tile):
            others = slice(part.stop if mirror is block else 0, columns.stop - columns.start)
            if mirror is block:
                square_RR = block.distances(block.products(part, part), part, part)
                yield Tile(_shifted(part, rows), _shifted(part, rows), square_RR)
            products_RC = block.products(part, others)
            turned_CR = products_RC.T.contiguous()
            yield Tile(_shifted(part, rows), _shifted(others, columns), block.distances(products_RC, part, others))
            yield Tile(_shifted(others, columns), _shifted(part, rows), mirror.distances(turned_CR, others, part))

    def _block(self, u_RD: Tensor, v_CD: Tensor) -> _Block | _Fp16Block:
        if self.arithmetic == "euclidean":
            wide_RD = u_RD.double()
            return _Block(wide_RD, wide_RD if v_CD is u_RD else v_CD.double(), root=True)
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
        self._uu_R = u_RD.square().sum(dim=1)
        self._vv_C = self._uu_R if v_CD is u_RD else v_CD.square().sum(dim=1)

    def products(self, rows: slice, columns: slice) -> Tensor:
        """Return u.v of some rows and columns of the block."""
        return self._u_RD[rows] @ self._v_CD[columns].T

    def distances(self, products_RC: Tensor, rows: slice, columns: slice) -> Tensor:
        """Return the fp32 distances with these products, which are overwritten."""
        squares_RC = products_RC.mul_(-2).add_(self._uu_R[rows, None]).add_(self._vv_C[columns]).float().clamp_(min=0)
        return squares_RC.sqrt_() if self._root else squares_RC


class _Fp16Block:
    """Squared distances of one block as a GPU computes them in fp16: max(uu - 2 uv + vv, 0).

    Features are cast to fp16. Squares of uu and vv are rounded to fp16, summed in fp32 and rounded to fp16; uv is
    accumulated in fp32 and rounded to fp16, as in a GEMM; every later operation rounds to fp16. The evaluator
    uses a block only when all its distances are finite: a value above 65504 sends the whole block to fp32. Minus
    infinity, from 2 uv alone, is clamped to 0 before that check, as in the evaluator.
    """

    def __init__(self, u_RD: Tensor, v_CD: Tensor, tile: int) -> None:
        # Products of fp16 values are exact in fp32: a GEMM of these copies is an fp16 GEMM that accumulates in fp32.
        self._tile = tile
        self._u_RD, self._uu_R = self._rounded(u_RD)
        self._v_CD, self._vv_C = (self._u_RD, self._uu_R) if v_CD is u_RD else self._rounded(v_CD)

    def _rounded(self, features_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features as fp32 copies of fp16 values, and their squared lengths."""
        rounded_BD = features_BD.half().float()
        squares = [part.square().half().float().sum(dim=1).half() for part in rounded_BD.split(self._tile)]
        return rounded_BD, torch.cat(squares)

    def products(self, rows: slice, columns: slice) -> Tensor:
        """Return u.v of some rows and columns of the block, fp16."""
        return (self._u_RD[rows] @ self._v_CD[columns].T).half()

    def distances(self, products_RC: Tensor, rows: slice, columns: slice) -> Tensor:
        """Return the distances with these products, fp32 with values of fp16."""
        return self._half(products_RC, rows, columns).float()

    def _half(self, products_RC: Tensor, rows: slice, columns: slice) -> Tensor:
        return (self._uu_R[rows, None] - 2 * products_RC).add_(self._vv_C[columns]).clamp_(min=0)

    def all_finite(self) -> bool:
        """Return True when no distance overflows. Norms usually decide it, else all distances are computed."""
        largest_u, largest_v = float(self._uu_R.max()), float(self._vv_C.max())
        if not (math.isfinite(largest_u) and math.isfinite(largest_v)):
            return False
        # |2 uv| <= 2 sqrt(uu vv) <= uu + vv; the margin covers the rounding errors.
        if 2 * (largest_u + largest_v) < 0.99 * _FP16_MAX:
            return True
        every = slice(0, len(self._vv_C))
        return all(
            bool(self._half(self.products(part, every), part, every).isfinite().all())
            for part in _parts(slice(0, len(self._uu_R)), self._tile)
        )


def _parts(rows: slice, size: int) -> list[slice]:
    """Return the rows of a block in parts of at most `size`, counted from its first."""
    count = rows.stop - rows.start
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _shifted(part: slice, rows: slice) -> slice:
    return slice(rows.start + part.start, rows.start + part.stop)


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
