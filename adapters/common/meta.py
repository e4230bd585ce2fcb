"""Modules without memory: names, shapes and dtypes, to check files against and to count FLOPs on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

T = TypeVar("T")


def on_meta(build: Callable[[], T]) -> T:
    """Call `build` with the tensors that it makes on the meta device."""
    with torch.device("meta"), _WithoutInitialisation():
        return build()


class _WithoutInitialisation(TorchFunctionMode):
    """Mode in which the functions of `torch.nn.init` return their tensor unchanged.

    There is nothing to initialise on the meta device, and random numbers for it would import torch's compiler: a second
    of every start.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def count_flops(call: Callable[[], Tensor]) -> int:
    """Count the FLOPs of matrix products and convolutions in `call` as it runs (on the meta device without work)."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    flops: int = counter.get_total_flops()
    return flops
