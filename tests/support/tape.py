"""Stand-in for CUDA graphs on a CPU: the operators of a block are taped, and a replay runs them on the same memory.

As a graph does, the tape keeps numbers of the host as they were, and what a recording computed means nothing before the
first replay: it is overwritten with poison. Reads of the host, and shapes that depend on values, end a recording.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

READS = ("_local_scalar_dense", "item", "nonzero", "equal", "is_nonzero", "_unique2", "masked_select", "allclose")
"""Operators that wait for the device, or whose result has a shape that depends on values."""


def tensors_in(*values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def storage_of(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def reads_host(operator: Any, args: Sequence[Any]) -> bool:
    """True for an operator that a CUDA graph cannot hold."""
    name = operator.name().removeprefix("aten::").split(".")[0]
    if name in READS:
        return True
    # An index that is a mask becomes a list of places.
    masks = [t for t in tensors_in(*args[1:2]) if t.dtype in (torch.bool, torch.uint8)]
    return name in ("index", "index_put_", "_index_put_impl_") and bool(masks)


class Tape(TorchDispatchMode):
    """Operators of a block with their arguments and results."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[tuple[Any, Sequence[Any], dict[str, Any], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        if reads_host(func, args):
            raise RuntimeError(f"operation not permitted when stream is capturing: {func.name()}")
        result = func(*args, **(kwargs or {}))
        self.entries.append((func, args, kwargs or {}, result))
        return result

    def made(self) -> list[Tensor]:
        """Results in memory that their operator allocated."""
        return [
            result
            for _, args, kwargs, results in self.entries
            for result in tensors_in(results)
            if storage_of(result) not in {storage_of(t) for t in tensors_in(args, kwargs)}
        ]

    def replay(self) -> None:
        for func, args, kwargs, results in self.entries:
            given = {storage_of(t) for t in tensors_in(args, kwargs)}
            again = func(*args, **kwargs)
            for place, value in zip(tensors_in(results), tensors_in(again), strict=True):
                if storage_of(place) not in given:
                    place.copy_(value)


class TapeCapture:
    """`adapters.graphs.Capture` on tapes."""

    made: int = 0

    def __init__(self) -> None:
        self.tape: Tape | None = None
        self.aborted = 0
        type(self).made += 1

    @contextmanager
    def aside(self) -> Iterator[None]:
        yield

    def begin(self) -> None:
        self.tape = Tape()
        self.tape.__enter__()

    def end(self) -> Callable[[], None]:
        tape = self._stop()
        for tensor in tape.made():
            if tensor.dtype != torch.bool:
                tensor.fill_(torch.nan if tensor.is_floating_point() else 0)
        return tape.replay

    def abort(self) -> None:
        self.aborted += 1
        if self.tape is not None:
            self._stop()

    def pool_bytes(self) -> int:
        return 1_000

    def _stop(self) -> Tape:
        tape, self.tape = self.tape, None
        assert tape is not None
        tape.__exit__(None, None, None)
        return tape
