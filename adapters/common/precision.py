"""Half precision for a model, except for the parts that the official code keeps in fp32."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from arvbench.errors import UserError


def cast_except(module: nn.Module, dtype: torch.dtype, *, keep_fp32: Collection[str]) -> None:
    """Cast floating-point tensors of `module` in place: to fp32 if their path has a part in `keep_fp32`, else `dtype`.

    "head" keeps `head.weight`, "A_log" every `blocks.i.mamba.A_log`. Kept tensors are never rounded on the way: casting
    everything and casting back would lose their low bits.
    """
    for path, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_floating_point():
            kept = any(part in keep_fp32 for part in path.split("."))
            cast = tensor.data.to(torch.float32 if kept else dtype)
            if not tensor.is_meta and torch.finfo(cast.dtype).max < torch.finfo(tensor.dtype).max:
                _check_range(path, tensor.data, cast)
            tensor.data = cast


def _check_range(path: str, before: Tensor, after: Tensor) -> None:
    lost = before.isfinite() & ~after.isfinite()
    if lost.any():
        name = str(after.dtype).removeprefix("torch.")
        raise UserError(
            f"weight {path} holds {float(before[lost][0]):.6g}, which {name} cannot hold (its largest is "
            f"{torch.finfo(after.dtype).max:.6g}): load the model in "
            + ("bfloat16 or float32" if after.dtype == torch.float16 else "float32")
        )
