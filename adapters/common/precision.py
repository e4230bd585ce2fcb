"""Running a model in half precision while the parts that the official code keeps in fp32 stay there."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn


def cast_except(module: nn.Module, dtype: torch.dtype, *, keep_fp32: Collection[str]) -> None:
    """Cast the floating-point tensors of `module` to `dtype` in place, but those of the named children to fp32.

    The named children are never rounded on the way: casting everything and casting back would lose their low bits.
    """
    for name, child in module.named_children():
        child.to(torch.float32 if name in keep_fp32 else dtype)
    for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)
