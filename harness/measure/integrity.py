"""Proof that a sampling call does its work inside its events, and has done it when it returns.

Results     plain tensors on the sampler's device, which hold after everything is settled what they held at the return:
            nothing is computed when it is read, nothing is filled in later by another thread or stream
Products    matrix products and convolutions run inside steps and decode, on the calling thread, and every step that
            plans FLOPs has some: no event is early or late
Draws       every call has noise of its own, and draws the tokens of every step from it: no answer is kept

Products are counted in the check of correctness, which runs the same code. The timed calls pay for none of this: what
there is to do is done before their first mark and after their last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from arvbench.adapters.call import Samples
from arvbench.adapters.sampling import PerImageNoise
from arvbench.adapters.schedule import Schedule
from arvbench.errors import ContractError

_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "linear", "convolution", "matmul", "einsum", "scaled_dot_product")
"""Parts of the names of operators that do a model's arithmetic; all libraries' variants contain one of them."""


def require_plain(what: str, *tensors: Any) -> None:
    """Raise ContractError for a result that is no tensor in memory, such as a subclass that computes when read."""
    for tensor in tensors:
        if type(tensor) is not Tensor or tensor.device.type not in ("cpu", "cuda"):
            kind = f"{type(tensor).__name__} on {tensor.device.type}" if isinstance(tensor, Tensor) else type(tensor)
            raise ContractError(
                f"{what} must be plain tensors that are computed when the call returns, got {kind}: a result that is "
                "computed when it is read has no time"
            )


class Snapshot:
    """Copy of a call's results, made at its return."""

    def __init__(self, samples: Samples) -> None:
        """Raise ContractError for results that are not plain tensors."""
        require_plain("tokens and images of a sampling call", samples.images, samples.decoded, *samples.tokens)
        self._results = samples.images, *samples.tokens
        self._copies = [tensor.clone() for tensor in self._results]

    def check(self) -> None:
        """Raise ContractError when the results have changed since; call it after the device has settled."""
        if not all(torch.equal(copy, now) for copy, now in zip(self._copies, self._results, strict=True)):
            raise ContractError(
                "the results changed after the sampling call had returned: part of the work ran on another thread or "
                "stream, so this time cannot be defended"
            )


class ProductCounter(TorchDispatchMode):
    """Counts matrix products by the scope that was open when they ran; None is outside of all scopes.

    A dispatch mode sees the thread that entered it, and no other.
    """

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)
        self.counts: Counter[str | None] = Counter()
        self.open: str | None = None

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Leave out torch's wrapper for compiled code, which imports the compiler: two seconds in every case."""
        return False

    def __torch_dispatch__(self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None) -> Any:
        if _is_product(func):
            self.counts[self.open] += 1
        return func(*args, **(kwargs or {}))

    def check(self, schedule: Schedule) -> None:
        """Raise ContractError when a scope that plans FLOPs has no product, or when there are some outside of all."""
        scopes = [f"step[{step.index}]" for step in schedule if step.flops]
        scopes += ["decode"] if schedule.decode_flops else []
        if idle := [scope for scope in scopes if not self.counts[scope]]:
            raise ContractError(
                f"no matrix product ran inside {idle[0]} on the calling thread: its events are early or late, or "
                "another thread does its work"
            )
        if outside := self.counts[None]:
            raise ContractError(f"{outside} matrix products ran outside of steps and decode: no scope has their time")


@cache
def _is_product(operator: Any) -> bool:
    # Weights are packed once, in the first call: no product, though its name speaks of linear layers.
    return "reorder" not in operator.name() and any(part in operator.name() for part in _PRODUCTS)


class FreshNoise:
    """Makes the noise of one call after another, all different, and knows what was drawn from each."""

    def __init__(self, run_seed: int, images: int) -> None:
        self._run_seed, self._images = run_seed, images
        self._made: list[_LoggedNoise] = []

    def next(self) -> PerImageNoise:
        """Return the noise of the next `images` images."""
        first = len(self._made) * self._images
        self._made.append(_LoggedNoise(self._run_seed, range(first, first + self._images)))
        return self._made[-1]

    def check(self, schedule: Schedule) -> None:
        """Raise ContractError when a call did not draw the tokens of every step."""
        steps = {step.index for step in schedule}
        for number, noise in enumerate(self._made):
            if missing := steps - noise.drawn:
                raise ContractError(
                    f"call {number} drew no tokens in {len(missing)} of {len(steps)} steps: its answer was not made "
                    "in this call"
                )


class _LoggedNoise(PerImageNoise):
    def __init__(self, run_seed: int, image_indices: range) -> None:
        super().__init__(run_seed, image_indices)
        self.drawn: set[int] = set()

    def tokens(self, logits_BlV: Tensor, step: int, *, one_by_one: bool = False) -> Tensor:
        self.drawn.add(step)
        return super().tokens(logits_BlV, step, one_by_one=one_by_one)

    def accept(self, ids_Bl: Tensor, failed_Bl: Tensor, step: int) -> Tensor:
        self.drawn.add(step)
        return super().accept(ids_Bl, failed_Bl, step)

    def latents(self, denoised_BlK: Tensor, step: int) -> Tensor:
        self.drawn.add(step)
        return super().latents(denoised_BlK, step)

    def replayed(self, step: int) -> None:
        self.drawn.add(step)
