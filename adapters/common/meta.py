"""Modules on the meta device: names, shapes and dtypes without memory, to check files and to count FLOPs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partialmethod
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

T = TypeVar("T")


_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Embedding, nn.GroupNorm, nn.LayerNorm)
"""Layers whose parameters torch initialises, which takes a third of the time of building a model on the meta device."""
_RESET = "reset_parameters"
_ALONE = threading.RLock()
"""Held while the method of that name is replaced."""


def on_meta(build: Callable[[], T]) -> T:
    """Return the result of `build`; tensors that it makes are on the meta device."""
    with _ALONE, _only_with_values(), torch.device("meta"), WithoutInitialisation():
        return build()


@contextmanager
def _only_with_values() -> Iterator[None]:
    """Leave layers on the meta device as they are; layers that other threads make meanwhile are initialised."""
    before = {layer: vars(layer).get(_RESET) for layer in _LAYERS}

    def reset(layer: nn.Module, initialise: Callable[[nn.Module], None]) -> None:
        if not any(parameter.is_meta for parameter in layer.parameters(recurse=False)):
            initialise(layer)

    for layer in _LAYERS:
        setattr(layer, _RESET, partialmethod(reset, getattr(layer, _RESET)))
    try:
        yield
    finally:
        for layer, own in before.items():
            if own is None:
                delattr(layer, _RESET)
            else:
                setattr(layer, _RESET, own)


def register_constants(module: nn.Module, make: Callable[[], Mapping[str, Tensor]]) -> None:
    """Register the buffers that `make` computes, keyed by name; it runs on the CPU whatever torch's default device is.

    Computed on the meta device, a range or a power imports torch's compiler.
    """
    device = torch.get_default_device()
    with torch.device("cpu"):
        buffers = make()
    for name, values in buffers.items():
        module.register_buffer(name, values.to(device))


class WithoutInitialisation(TorchFunctionMode):
    """Mode in which the functions of `torch.nn.init` return their tensor unchanged: weights are loaded anyway.

    The meta device has nothing to initialise, and drawing random numbers on it imports torch's compiler, which would
    slow every start by a second.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def count_flops(call: Callable[[], Tensor]) -> int:
    """Run `call` and return the FLOPs of its matrix products and convolutions; the meta device computes nothing."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    flops: int = counter.get_total_flops()
    return flops
