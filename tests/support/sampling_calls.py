"""Sampling calls in tests: draw with fixed noise, compare tokens, observe steps and their FLOPs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, shape_wrapper

from arvbench.adapters.cache.policy import Cache
from arvbench.adapters.call import Samples, SilentObserver, StepOutput
from arvbench.adapters.sampler import Sampler
from arvbench.adapters.sampling import PerImageNoise
from arvbench.adapters.schedule import Step
from arvbench.adapters.settings import SamplingSettings

LABELS = [0, 3, 4]
LATENT_SHARE = 1e-4
"""Rounding difference of latents that are equal in exact arithmetic, as a share of the largest."""


def draw(
    sampler: Sampler,
    labels: Sequence[int] = LABELS,
    settings: SamplingSettings | None = None,
    *,
    policy: str | None = None,
    **options: Any,
) -> Samples:
    """Sample one image per label from the noise of images 0, 1, ...; `policy` makes the cache."""
    settings = settings or sampler.spec.settings
    if policy is not None:
        options["cache"] = sampler.make_cache(policy, settings, batch=len(labels))
    return sampler.sample(labels, settings, noise=PerImageNoise(0, range(len(labels))), **options)


def same_tokens(one: Samples | Sequence[Tensor], other: Samples | Sequence[Tensor]) -> bool:
    """Compare the tokens of two calls, group by group: ids are equal, latents up to rounding."""
    ours, theirs = (tokens.tokens if isinstance(tokens, Samples) else tokens for tokens in (one, other))
    return all(_same(a, b) for a, b in zip(ours, theirs, strict=True))


def _same(one: Tensor, other: Tensor) -> bool:
    if not one.is_floating_point():
        return torch.equal(one, other)
    return bool((one - other).abs().max() <= LATENT_SHARE * other.abs().max())


class Steps(SilentObserver):
    """Keep every step with its output, and the cache's bytes after it."""

    def __init__(self, cache: Cache | None = None) -> None:
        self.cache = cache
        self.steps: list[Step] = []
        self.outputs: list[StepOutput] = []
        self.live: list[int] = []
        self.allocated: list[int] = []

    def step_end(self, step: Step, output: StepOutput) -> None:
        self.steps.append(step)
        self.outputs.append(output)
        if self.cache is not None:
            self.live.append(self.cache.live_bytes())
            self.allocated.append(self.cache.allocated_bytes())

    def of(self, kind: str) -> list[StepOutput]:
        """Return the outputs of the steps of one kind."""
        return [output for step, output in zip(self.steps, self.outputs, strict=True) if step.kind == kind]

    def logits(self, name: str = "logits_pre_cfg") -> Tensor:
        """Concatenate the logits of all steps."""
        return torch.cat([getattr(output, name) for output in self.outputs], dim=1)


def _linear_flops(x: Sequence[int], weight: Sequence[int], *_: object, **_options: object) -> int:
    return 2 * math.prod(x) * weight[0]


_UNKNOWN_TO_TORCH = {torch.ops.mkldnn._linear_pointwise: shape_wrapper(_linear_flops)}


class _Flops(TorchDispatchMode):
    """Adds up FLOPs by torch's own formulas, as FlopCounterMode does at several times the cost.

    That one enters and leaves a mode for every operation, to see whether it consists of others; here an operator is
    asked once.
    """

    _OF_OPERATOR: ClassVar[dict[Any, Any]] = {}
    """Operator -> the formula of its FLOPs, its decomposition where it consists of others, or None."""

    def __init__(self) -> None:
        super().__init__()
        self.counted = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in self._OF_OPERATOR:
            composite = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")
            formula = (flop_registry | _UNKNOWN_TO_TORCH).get(func._overloadpacket)
            self._OF_OPERATOR[func] = func.decompose if composite and formula is None else formula
        formula = self._OF_OPERATOR[func]
        if formula == func.decompose:
            with self:
                return formula(*args, **kwargs)
        out = func(*args, **kwargs)
        if formula is not None:
            self.counted += formula(*args, **kwargs, out_val=out)
        return out


class CountedFlops(SilentObserver):
    """Count the FLOPs of every step, and last of the decode, as torch does; keep the cache's bytes after a step."""

    def __init__(self, cache: Cache | None = None) -> None:
        self.cache = cache
        self.counted: list[int] = []
        self.live: list[int] = []

    def decode_begin(self) -> None:
        self._counter = _Flops()
        self._counter.__enter__()

    def decode_end(self, decoded: Tensor) -> None:
        self._counter.__exit__(None, None, None)
        self.counted.append(self._counter.counted)

    def step_begin(self, step: Step) -> None:
        self.decode_begin()

    def step_end(self, step: Step, output: StepOutput) -> None:
        self.decode_end(output.logits)
        if self.cache is not None:
            self.live.append(self.cache.live_bytes())

    @property
    def steps(self) -> list[int]:
        return self.counted[:-1]


@contextmanager
def counted_flops(cache: Cache | None = None) -> Iterator[CountedFlops]:
    """Yield an observer that counts; on the CPU only mathematical attention consists of counted matrix products."""
    with sdpa_kernel(SDPBackend.MATH):
        yield CountedFlops(cache)
