"""Frechet distances of many weightings of one set of samples to one reference.

Shapes   N samples, D features, W weightings of the samples
"""

from __future__ import annotations

import torch
from torch import Tensor

from arvbench.harness.quality.metrics.frechet import ReferenceRoot, check_features

_BLOCK = 4096
"""Rows converted to float64 at a time."""


def distances_of_weightings(
    features_ND: Tensor, root: ReferenceRoot, weights_WN: Tensor, device: torch.device | str
) -> list[float]:
    """Return FD of every weighting of the samples; a weight is the multiplicity of an image in the set.

    R S R^T comes directly from y = R (x - mean): no product of (D, D) matrices per weighting. Sums are centred on the
    mean of all samples, which is close to that of every weighting. At most D samples share one (N, N) matrix of
    products of y, which has the same eigenvalues and fewer null directions. Raises UserError as `check_features`.
    """
    check_features(features_ND, root)
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
    if len(features_ND) <= len(origin_D):
        products_NN = projected_ND @ projected_ND.T
        roots_W = torch.stack([_root_trace_of_few(products_NN, weights_N) for weights_N in weights_WN])
    else:
        projected_WD = shift_WD @ root_DD.T
        roots_W = torch.stack([_root_trace(projected_ND, *pair) for pair in zip(weights_WN, projected_WD, strict=True)])
    return (means_W + traces_W + trace_r - 2 * roots_W).tolist()


def _root_trace(projected_ND: Tensor, weights_N: Tensor, mean_D: Tensor) -> Tensor:
    """Return tr (R S R^T)^1/2 of the weighted samples, whose mean of y is `mean_D`."""
    count = weights_N.sum()
    present = weights_N.nonzero()[:, 0]
    scatter_DD = torch.zeros(len(mean_D), len(mean_D), dtype=torch.float64, device=mean_D.device)
    for part in present.split(_BLOCK):
        scatter_DD += gram(projected_ND[part] * weights_N[part, None].sqrt())
    middle_DD = (scatter_DD - count * torch.outer(mean_D, mean_D)) / (count - 1)
    values_D: Tensor = torch.linalg.eigvalsh(middle_DD)
    return values_D.clamp(min=0).sqrt().sum()


def _root_trace_of_few(products_NN: Tensor, weights_N: Tensor) -> Tensor:
    """Return tr (R S R^T)^1/2 of the weighted samples from the products y_i y_j of all."""
    present = weights_N.nonzero()[:, 0]
    weights_n = weights_N[present]
    products_nn = products_NN[present][:, present]
    count = weights_n.sum()
    means_n = products_nn @ weights_n / count
    centred_nn = products_nn - means_n[:, None] - means_n + means_n @ weights_n / count
    values_n: Tensor = torch.linalg.eigvalsh(centred_nn * (weights_n[:, None] * weights_n).sqrt() / (count - 1))
    return values_n.clamp(min=0).sqrt().sum()


def gram(rows_BD: Tensor) -> Tensor:
    """Return rows^T rows. NumPy sees that both factors are one matrix and halves the work."""
    if rows_BD.device.type != "cpu":
        return rows_BD.T @ rows_BD
    rows = rows_BD.numpy()
    return torch.from_numpy(rows.T @ rows)
