"""Half precision for a model, except for the parts that the official code keeps in fp32."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn


def cast_except(module: nn.Module, dtype: torch.dtype, *, keep_fp32: Collection[str]) -> None:
    """Cast floating-point tensors of `module` in place: to fp32 if their path has a part in `keep_fp32`, else `dtype`.

    "head" keeps `head.weight`, "A_log" every `blocks.i.mamba.A_log`. Kept tensors are never rounded on the way: casting
    everything and casting back would lose their low bits.
    """
    for path, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_floating_point():
            kept = any(part in keep_fp32 for part in path.split("."))
            tensor.data = tensor.data.to(torch.float32 if kept else dtype)
