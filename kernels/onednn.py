"""Products of oneDNN on a CPU: with weights that lie in its own order, for few rows; with a GELU behind, for many.

`F.linear` takes the weight row by row as it lies in memory. Where x has few rows, reading the weight is most of the
work, and oneDNN reads its own order (blocks of channels) up to twice as fast. Of many rows `F.linear` is faster by up
to a tenth; where the two meet depends on outputs and threads (arvbench.adapters.common.linear).

A packed weight is an opaque tensor with the shape and dtype of the plain one. It may take more bytes, since blocks are
filled up with zeros. `to_dense` returns exactly the plain values.

A GELU of its own reads and writes every hidden value once more, in memory that is new each time. Within the product it
is applied to what the core has at hand.

The operators are private to torch and may change or be absent: `usable` tries them once per process.

Shapes   x (..., I), weight (O, I), bias (O,); fp32 on the CPU
"""

from __future__ import annotations

from functools import cache
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

GeluForm = Literal["none", "tanh"]
"""Exact, or the approximation by tanh, as torch names them."""
FORMS: tuple[GeluForm, ...] = get_args(GeluForm)
_ROWS = 32
"""Rows that the order of a packed weight is chosen for; any number is accepted."""
_PROBED = ((1, 16, 16), (2, 96, 40), (37, 33, 130))
"""Rows, O and I of the products in `usable`: whole blocks, parts of blocks, more rows than `_ROWS`."""
_AGREEMENT = 1e-5
"""Largest difference of products of order 1 in another order of summation."""


def packed(weight_OI: Tensor) -> Tensor:
    """Return a copy of the weight in oneDNN's order."""
    packed_OI: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight_OI, _ROWS)
    return packed_OI


def packed_linear(x: Tensor, packed_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    """Return x weight^T + bias, (..., O), equal to `F.linear` up to the order of summation."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed_OI, bias_O, "none", [], "")
    return product


def linear_gelu(x: Tensor, weight_OI: Tensor, bias_O: Tensor, form: GeluForm) -> Tensor:
    """Return gelu(x weight^T + bias), (..., O), equal to `F.gelu(F.linear(...))` up to rounding."""
    hidden: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight_OI, bias_O, "gelu", [], form)
    return hidden


def stored_bytes(tensor: Tensor) -> int:
    """Bytes that a tensor takes in memory, for a packed one those of its filled-up blocks."""
    if tensor.is_mkldnn:
        return int(torch.ops.mkldnn._nbytes(tensor))
    return tensor.numel() * tensor.element_size()


@cache
def usable() -> bool:
    """True when this torch has the operators and they compute what `F.linear` does; then they may be called."""
    with torch.inference_mode(False), torch.no_grad():
        try:
            return all(_agrees(*sizes) for sizes in _PROBED)
        except (AttributeError, RuntimeError, TypeError):  # absent, built without oneDNN, or with other arguments
            return False


def _agrees(rows: int, out: int, width: int) -> bool:
    generator = torch.Generator().manual_seed(rows)
    x, weight, bias = (torch.randn(*size, generator=generator) for size in ((1, rows, width), (out, width), (out,)))
    weight /= width**0.5
    copy = packed(weight)
    return (
        copy.is_mkldnn
        and torch.equal(copy.to_dense(), weight)
        and stored_bytes(copy) >= stored_bytes(weight)
        and all(
            torch.allclose(packed_linear(x, copy, b), F.linear(x, weight, b), rtol=_AGREEMENT, atol=_AGREEMENT)
            for b in (None, bias)
        )
        and all(
            torch.allclose(
                linear_gelu(x, weight, bias, form),
                F.gelu(F.linear(x, weight, bias), approximate=form),
                rtol=_AGREEMENT,
                atol=_AGREEMENT,
            )
            for form in FORMS
        )
    )
