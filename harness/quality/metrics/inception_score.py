"""Inception score as in ADM's evaluator: in the given order, in splits of 5,000 images.

IS = mean over splits of exp(mean over images of KL(p(class | image) || mean of p over the split)). Probabilities are
the fp32 softmax of fp32 logits without bias; later sums and logarithms are float64. The logarithms have no epsilon:
0 log 0 counts as 0, its limit (the evaluator would give NaN).

The order matters. Samples sorted by class put few classes into each split, and the score collapses, because the number
of classes in a split bounds it.

Shapes   N images, C classes
Range    1 .. C
Source   Salimans et al. 2016 (arXiv:1606.03498); openai/guided-diffusion, evaluations/evaluator.py
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from arvbench.errors import ContractError, UserError

SPLIT_SIZE = 5000
"""Images of a split, as in the evaluator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """An inception score."""

    value: float
    """Mean over splits."""
    split_values: tuple[float, ...]
    std: float | None
    """Population standard deviation over splits; None for one split."""


def inception_score(logits_NC: Tensor, split_size: int = SPLIT_SIZE, *, shuffle_seed: int | None = None) -> Score:
    """Return the score of logits (N, C) fp32 in contiguous splits; the last may be short.

    `shuffle_seed` permutes the images before the split; None keeps their order. Raises UserError for no images or
    logits that are not finite, ContractError for logits of another shape or type.
    """
    if logits_NC.dim() != 2 or logits_NC.dtype != torch.float32:
        raise ContractError(f"logits are (N, C) fp32, not {tuple(logits_NC.shape)} {logits_NC.dtype}")
    if split_size < 1:
        raise UserError(f"a split of the inception score holds at least 1 image, not {split_size}")
    if len(logits_NC) == 0:
        raise UserError("the inception score needs at least 1 image, there is none")
    bad_N = ~logits_NC.isfinite().all(dim=1)
    if bad_N.any():
        raise UserError(f"logits of {int(bad_N.sum())} of {len(bad_N)} images are NaN or infinite; extract them again")
    if shuffle_seed is not None:
        order_N = torch.randperm(len(logits_NC), generator=torch.Generator().manual_seed(shuffle_seed))
        logits_NC = logits_NC[order_N]
    values = torch.tensor([_score_of_split(split_nC) for split_nC in logits_NC.split(split_size)], dtype=torch.float64)
    return Score(
        value=float(values.mean()),
        split_values=tuple(values.tolist()),
        std=float(values.std(correction=0)) if len(values) > 1 else None,
    )


def _score_of_split(logits_nC: Tensor) -> float:
    probabilities_nC = logits_nC.softmax(dim=1).double()
    marginal_C = probabilities_nC.mean(dim=0)
    # xlogy(0, 0) = 0; a class of marginal 0 has probability 0 in every image and adds nothing.
    kl_n = (torch.xlogy(probabilities_nC, probabilities_nC) - torch.xlogy(probabilities_nC, marginal_C)).sum(dim=1)
    return float(kl_n.mean().exp())
