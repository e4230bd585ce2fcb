"""One sampling call: input, events and result.

Shapes   B images, R forward rows (2B with classifier-free guidance), l tokens of one step, V codebook entries,
         K latent channels
Range    logits natural-log, fp32; decoded images float, nominally in [0, 1]; images uint8 0..255 NCHW
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from arvbench.adapters.cache.policy import Cache
from arvbench.adapters.editing import KnownTokens
from arvbench.adapters.sampling import Noise, PerImageNoise
from arvbench.adapters.schedule import Schedule, Step
from arvbench.adapters.settings import SamplingSettings
from arvbench.errors import UserError
from arvbench.kernels.guided_sample.rule import Draw

_NOT_FINITE = {
    False: ("logits", "no token can be drawn from NaN or infinity"),
    True: ("latents", "no image can be made of NaN or infinity"),
}
"""By whether steps yield latents: the name of what failed, and the consequence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutput:
    """Output of one step. The tensors belong to the sampler and must not be modified.

    They are made in torch's inference mode: what is trained on is a clone, made after the call.
    """

    logits_pre_cfg: Tensor
    """(R, l, V): conditional rows first, then unconditional; (R, l, K) where the step yields latents: what the network
    predicts in its last inner pass.
    """
    logits: Tensor
    """(B, l, V): after guidance, before top-k and top-p; (B, l, K) where the step yields latents: those latents."""
    tokens: Tensor
    """(B, l) int64, drawn in this step, raster order inside a scale; (B, l, K) fp32 where the step yields latents."""
    redrawn: Tensor | None = None
    """(B, n) int64: positions redrawn by a mask refinement; None in other steps."""
    state: Tensor
    """Image so far, the input of `Sampler.decode_state`: f_hat (B, C, h, w) for residual tokenizers, the code map of
    the last scale (B, C, h, w) for FlexVAR, all ids drawn so far (B, T) for one-resolution tokenizers, or all latents
    (B, T, K).
    """


class Observer(Protocol):
    """Receiver of the events of one sampling call. Every measurement is one; adapters contain no timing code.

    One with an attribute `reads_logits` that is False may get empty logits, which saves their memory in replays, and
    their computation where a kernel draws.
    """

    def step_begin(self, step: Step) -> None: ...
    def step_end(self, step: Step, output: StepOutput) -> None: ...
    def decode_begin(self) -> None: ...
    def decode_end(self, decoded: Tensor) -> None: ...


class SilentObserver:
    """An observer that ignores all events; subclasses override the ones they need."""

    def step_begin(self, step: Step) -> None: ...
    def step_end(self, step: Step, output: StepOutput) -> None: ...
    def decode_begin(self) -> None: ...
    def decode_end(self, decoded: Tensor) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingCall:
    """One checked sampling call, the input of `Sampler.generate`."""

    labels_R: Tensor
    """(R,) int64: one class per image, then, with guidance, the null class once per image."""
    settings: SamplingSettings
    noise: Noise
    cache: Cache
    """Empty cache of the required size."""
    observer: Observer
    schedule: Schedule
    known: KnownTokens | None = None
    """Tokens that are not drawn; None outside editing."""
    _drawn: list[tuple[Step, Tensor]] = field(default_factory=list, init=False, repr=False)
    """Ids as the noise returned them, or where no token came out (bool): a kernel could not draw, or latents are not
    finite; for `check`.
    """

    def draw(self, filtered_BlV: Tensor, step: Step, *, one_by_one: bool = False) -> Tensor:
        """Draw ids (B, l) int64 of `step` from softmax(logits); all families draw here.

        Noise returns V where the logits have no softmax. Such an id would index beyond a table, which on CUDA ends the
        process, so it is clamped; `check` reports it once after the call, because a look at it in every step would
        stall the device.
        """
        ids_Bl = self.noise.tokens(filtered_BlV, step.index, one_by_one=one_by_one)
        self._drawn.append((step, ids_Bl))
        return ids_Bl.clamp(max=filtered_BlV.shape[-1] - 1)

    def take(self, draw: Draw, step: Step) -> Tensor:
        """Return ids (B, l) int64 of `step` that a kernel drew with the numbers of the noise."""
        assert isinstance(self.noise, PerImageNoise)
        self._drawn.append((step, draw.failed_Bl))
        return self.noise.accept(draw.ids_Bl, draw.failed_Bl, step.index)

    def take_latents(self, latents_BlK: Tensor, step: Step) -> Tensor:
        """Return the latents (B, l, K) of `step` to go on with; `check` reports those that are not finite."""
        self._drawn.append((step, ~latents_BlK.isfinite().all(dim=2)))
        return self.noise.latents(latents_BlK, step.index)

    def check(self, decoded: Tensor, vocab_size: int | None) -> None:
        """Raise UserError when logits, latents or decoded images were not finite; waits for the device once."""
        none = [torch.zeros(1, dtype=torch.bool, device=decoded.device)]
        failed = torch.cat([t.flatten() for _, t in self._drawn if t.dtype == torch.bool] or none)
        drawn = torch.cat([t.flatten() for _, t in self._drawn if t.dtype != torch.bool] or none)
        lost = failed.any() if vocab_size is None else failed.any() | (drawn >= vocab_size).any()
        beyond, not_finite = torch.stack((lost, ~decoded.isfinite().all())).tolist()
        remedy = "try bfloat16 or float32 instead of float16, a smaller cfg, or other weights"
        if beyond:
            lost_in = ((step, t if t.dtype == torch.bool else t >= (vocab_size or 0)) for step, t in self._drawn)
            step = next(step for step, lost_Bl in lost_in if bool(lost_Bl.any()))
            what, because = _NOT_FINITE[vocab_size is None]
            raise UserError(f"{what} are not finite in step {step.index} ({step.name}): {because}; {remedy}")
        if not_finite:
            what, _ = _NOT_FINITE[vocab_size is None]
            raise UserError(f"decoded images hold NaN or infinity, although all {what} are finite; {remedy}")

    def adopt(self, other: SamplingCall) -> None:
        """Take the ids that `other` drew, for `check`."""
        self._drawn.extend(other._drawn)

    @property
    def reads_logits(self) -> bool:
        """True when the observer reads logits."""
        return type(self.observer) is not SilentObserver and getattr(self.observer, "reads_logits", True)

    @property
    def guided(self) -> bool:
        """True when there are unconditional rows."""
        return len(self.labels_R) > self.schedule.images


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Results of a call on the device."""

    tokens: tuple[Tensor, ...]
    decoded: Tensor
    images: Tensor

    def cloned(self) -> Outcome:
        """Return a copy in memory of its own."""
        tokens = tuple(ids_Bl.clone() for ids_Bl in self.tokens)
        return Outcome(tokens=tokens, decoded=self.decoded.clone(), images=self.images.clone())

    def equals(self, other: Outcome) -> bool:
        """True when all values are equal bit for bit, NaN to NaN; waits for the device."""
        pairs = zip((*self.tokens, self.images), (*other.tokens, other.images), strict=True)
        same = all(torch.equal(ours, theirs) for ours, theirs in pairs)
        return same and torch.allclose(self.decoded, other.decoded, rtol=0, atol=0, equal_nan=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Result of one sampling call."""

    images: Tensor
    """(B, 3, H, W) uint8."""
    decoded: Tensor
    """(B, 3, H, W) float, nominally in [0, 1], before the uint8 rule; clamped as `Sampler.decode` states."""
    tokens: tuple[Tensor, ...]
    """(B, l) int64, or latents (B, l, K) fp32, per group."""
    labels: Tensor
    """(B,) int64; the null class is `num_classes`."""
