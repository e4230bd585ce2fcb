"""Class labels as callers have them, turned into int64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from arvbench.errors import UserError

NULL_LABEL = -1
"""Label of the null class (generation without a class)."""
_LABEL_DTYPES = frozenset(
    {torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64}
)


def as_integers(labels: Sequence[int] | Tensor) -> Tensor:
    """Return labels as int64 on the CPU, from integers of any width. Raises UserError for other values."""
    try:
        if isinstance(labels, list | tuple):
            # torch does not take NumPy's uint64 in a list.
            labels = [label.item() if hasattr(label, "item") else label for label in labels]
            if any(isinstance(label, bool) for label in labels):
                raise UserError("labels must be integers, one class per image, not true or false")
        given = torch.as_tensor(labels)
        if given.dtype in _LABEL_DTYPES and given.layout == torch.strided:
            numbers = given.to("cpu", torch.int64)
            if given.dtype == torch.uint64 and bool((numbers < 0).any()):
                raise UserError(f"label {int(numbers[numbers < 0][0]) + 2**64} is out of range")
            return numbers
    except (TypeError, ValueError, RuntimeError, NotImplementedError, OverflowError) as error:
        raise UserError(f"labels must be a list of integers: {str(error).splitlines()[0]}") from error
    if given.numel() == 0:
        return given.to(torch.int64)
    raise UserError(f"labels must be integers, got {given.dtype}")


def checked_labels(labels: Sequence[int] | Tensor, model: str, classes: int) -> Tensor:
    """Return the labels (B,) of `model`, with the null class for NULL_LABEL; UserError for other values."""
    labels_B = as_integers(labels)
    if labels_B.ndim != 1:
        raise UserError(f"labels must be a flat list, one per image, got shape {tuple(labels_B.shape)}")
    if labels_B.numel() == 0:
        raise UserError("there are no labels: batch 0 cannot be sampled")
    bad = labels_B[(labels_B < NULL_LABEL) | (labels_B >= classes)]
    if bad.numel():
        raise UserError(
            f"label {int(bad[0])} is out of range: {model} has classes 0..{classes - 1} ({NULL_LABEL} asks for the "
            "null class)"
        )
    return torch.where(labels_B == NULL_LABEL, classes, labels_B)
