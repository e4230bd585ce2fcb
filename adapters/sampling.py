"""From logits to tokens: guidance, top-k, top-p, and the sources of randomness.

Shapes   B images, l tokens of one step, V codebook entries
Range    logits natural-log; -inf marks a token that cannot be drawn
Source   behaviour of FoundationVision/VAR at 78b9539 (M-VAR, HMAR and FlexVAR share its sampler)
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from arvbench.errors import UserError
from arvbench.kernels.counter import digests, image_keys, inverted, uniforms
from arvbench.kernels.guided_sample.rule import Counter

EXCLUDED = -100.0
"""Logit, before guidance, of tokens that a model must not draw (FlexVAR's `invalid_ids`)."""


def cfg_mix(logits_RlV: Tensor, strength: float) -> Tensor:
    """Guided logits (B, l, V) from conditional rows then unconditional rows: (1 + t) cond - t uncond."""
    cond_BlV, uncond_BlV = logits_RlV.chunk(2)
    return (1 + strength) * cond_BlV - strength * uncond_BlV


def interpolate(logits_RlV: Tensor, scale: float) -> Tensor:
    """LlamaGen's guided logits (B, l, V), of rows as in `cfg_mix`: uncond + scale (cond - uncond)."""
    cond_BlV, uncond_BlV = logits_RlV.chunk(2)
    return uncond_BlV + (cond_BlV - uncond_BlV) * scale


def filter_logits(logits_BlV: Tensor, top_k: int | None, top_p: float | None, *, sort_all: bool = True) -> Tensor:
    """Return logits with every token outside top-k, then outside the top-p nucleus of the rest, at -inf.

    All tokens tied with the k-th largest survive. The nucleus drops the least likely tokens whose probabilities sum
    to at most 1 - top_p; the most likely token always survives. The input is not changed. Without `sort_all`, a CPU
    sorts logits instead of tokens, and of them the survivors of top-k, where that gives equal bits.
    """
    if not sort_all and top_p is not None and logits_BlV.device.type == "cpu":
        least_Bl1 = _least_of_nucleus(logits_BlV, top_k, top_p)
        if least_Bl1 is not None:
            return logits_BlV.masked_fill(logits_BlV < least_Bl1, -torch.inf)
    if top_k is not None:
        kth_Bl1 = logits_BlV.topk(top_k, dim=-1).values[..., -1:]
        logits_BlV = logits_BlV.masked_fill(logits_BlV < kth_Bl1, -torch.inf)
    if top_p is not None:
        sorted_BlV, order_BlV = logits_BlV.sort(dim=-1, descending=False)
        drop_BlV = _dropped(sorted_BlV, top_p)
        logits_BlV = logits_BlV.masked_fill(drop_BlV.scatter(-1, order_BlV, drop_BlV), -torch.inf)
    return logits_BlV


def _dropped(ascending_Blm: Tensor, top_p: float) -> Tensor:
    """True for the first logits of a sorted row, which lie outside its nucleus."""
    drop_Blm = ascending_Blm.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
    drop_Blm[..., -1].fill_(False)
    return drop_Blm


_BLOCK = 64
"""A multiple of the lanes of every vector unit: whole blocks of zeros left out of a sum do not regroup the others."""


def _least_of_nucleus(logits_BlV: Tensor, top_k: int | None, top_p: float) -> Tensor | None:
    """Smallest logit (B, l, 1) that stays after top-k and top-p; None when the choice is between equal logits.

    Which of them a sort of all tokens puts first depends on the machine.
    """
    ascending_Blm = _ascending(logits_BlV) if top_k is None else _ascending_survivors(logits_BlV, top_k)
    if ascending_Blm is None:
        return None
    dropped_Bl1 = _dropped(ascending_Blm, top_p).sum(dim=-1, keepdim=True)
    least_Bl1 = ascending_Blm.gather(-1, dropped_Bl1)
    before_Bl1 = ascending_Blm.gather(-1, (dropped_Bl1 - 1).clamp_min(0))
    if bool(((before_Bl1 == least_Bl1) & (dropped_Bl1 > 0)).any()):
        return None
    if top_k is None:
        return least_Bl1
    # Without a softmax (NaN, infinity) nothing is dropped.
    return torch.maximum(least_Bl1, ascending_Blm[..., -top_k : ascending_Blm.shape[-1] - top_k + 1])


def _ascending(logits_BlV: Tensor) -> Tensor | None:
    """All logits of each row in order; None for a dtype that numpy does not have.

    numpy sorts numbers alone with vector instructions, ten times as fast as torch, which moves their places along.
    """
    if logits_BlV.dtype not in (torch.float32, torch.float64):
        return None
    return torch.from_numpy(np.sort(logits_BlV.detach().numpy(), axis=-1))


def _ascending_survivors(logits_BlV: Tensor, top_k: int) -> Tensor | None:
    """The top_k largest logits of each row in order, behind -inf up to whole blocks; None for a tie at the k-th."""
    entries = logits_BlV.shape[-1]
    most_Blm = logits_BlV.topk(min(top_k + 1, entries), dim=-1).values
    if top_k < entries and bool((most_Blm[..., top_k:] == most_Blm[..., top_k - 1 : top_k]).any()):
        return None
    return F.pad(most_Blm[..., :top_k].flip(-1), ((entries - top_k) % _BLOCK, 0), value=-torch.inf)


def nucleus(logits_BlV: Tensor, top_p: float) -> Tensor:
    """Set logits outside LlamaGen's nucleus to -inf; the token that lifts the running sum above top_p stays."""
    sorted_BlV, order_BlV = logits_BlV.sort(dim=-1, descending=True)
    above_BlV = sorted_BlV.softmax(dim=-1).cumsum(dim=-1) > top_p
    drop_BlV = F.pad(above_BlV[..., :-1], (1, 0), value=False)
    return logits_BlV.masked_fill(drop_BlV.scatter(-1, order_BlV, drop_BlV), -torch.inf)


def gumbel_softmax(logits_BlV: Tensor, exponential_BlV: Tensor, temperature: float) -> Tensor:
    """Soft one-hot weights (B, l, V): softmax((logits - log E) / temperature) with E drawn from Exp(1)."""
    return ((logits_BlV - exponential_BlV.log()) / temperature).softmax(dim=-1)


class Noise(Protocol):
    """The only source of randomness of a sampling call."""

    def labels(self, count: int, num_classes: int) -> Tensor:
        """Draw `count` labels (count,) int64 uniformly; called before any token is drawn."""
        ...

    def tokens(self, logits_BlV: Tensor, step: int, *, one_by_one: bool = False) -> Tensor:
        """Draw ids (B, l) int64 from softmax(logits); V where that is NaN, never an error and never a wait.

        `one_by_one`: draw position by position, as some official code does; it decides the order of a random stream.
        """
        ...

    def redrawn(self, positions_Bn: Tensor, step: int) -> Tensor:
        """Return the positions (B, n) that a mask refinement draws again: the model's choice, unless replayed."""
        ...

    def exponential(self, like_BlV: Tensor, step: int) -> Tensor:
        """Draw Exp(1) variates in the shape and dtype of `like_BlV`, independent of the tokens of that step."""
        ...

    def normal(self, like_BX: Tensor, step: int) -> Tensor:
        """Draw standard normal variates in the shape and dtype of `like_BX`, independent of all other draws.

        `step` numbers the normal draws of a call; equal numbers give equal variates where the noise is counter-based.
        """
        ...

    def orders(self, images: int, sizes: tuple[int, ...], device: torch.device) -> tuple[Tensor, ...]:
        """Draw random orders (B, n) int64 of 0..n-1, one per image and size n; at most once in a call."""
        ...

    def latents(self, denoised_BlK: Tensor, step: int) -> Tensor:
        """Hear the latents that a step yields; return those to go on with, which are the same unless replayed."""
        ...


class UpstreamNoise:
    """Random stream of the official repositories: one generator per call, consumed in their order.

    The stream depends on batch size, on the generator's device and on torch's build (the exponential generator): use it
    to replay official runs, and PerImageNoise to evaluate. Logits may be on another device than the generator.

    Random orders are NumPy's shuffles, with `order_seed`, by default the same seed as in the official code.
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu", *, order_seed: int | None = None) -> None:
        number = _integer("seed", seed)
        if not -(2**63) <= number < 2**64:
            raise UserError(f"seed {number} is out of range: torch takes -2**63..2**64-1")
        self._generator = torch.Generator(device=device).manual_seed(number)
        self._order_seed = number if order_seed is None else _integer("seed", order_seed)

    def labels(self, count: int, num_classes: int) -> Tensor:
        uniform = torch.full((1, num_classes), 1 / num_classes, device=self._generator.device)
        return torch.multinomial(uniform, count, replacement=True, generator=self._generator).view(count)

    def tokens(self, logits_BlV: Tensor, step: int, *, one_by_one: bool = False) -> Tensor:
        if one_by_one:
            return torch.cat([self.tokens(logits_B1V, step) for logits_B1V in logits_BlV.split(1, dim=1)], dim=1)
        probs = logits_BlV.softmax(dim=-1).reshape(-1, logits_BlV.shape[-1]).to(self._generator.device)
        # Without a softmax every probability of a row is NaN, at which multinomial raises, or ends a process on CUDA.
        ids = torch.multinomial(probs.nan_to_num(nan=1.0), 1, generator=self._generator)
        ids = ids.masked_fill(probs[:, :1].isnan(), logits_BlV.shape[-1])
        return ids.view(logits_BlV.shape[:-1]).to(logits_BlV.device)

    def redrawn(self, positions_Bn: Tensor, step: int) -> Tensor:
        return positions_Bn

    def exponential(self, like_BlV: Tensor, step: int) -> Tensor:
        fresh = torch.empty_like(like_BlV, device=self._generator.device)
        return fresh.exponential_(generator=self._generator).to(like_BlV.device)

    def normal(self, like_BX: Tensor, step: int) -> Tensor:
        device = self._generator.device
        fresh = torch.randn(like_BX.shape, generator=self._generator, dtype=like_BX.dtype, device=device)
        return fresh.to(like_BX.device)

    def orders(self, images: int, sizes: tuple[int, ...], device: torch.device) -> tuple[Tensor, ...]:
        if not 0 <= self._order_seed < 2**32:
            raise UserError(f"seed {self._order_seed} is out of range for random orders: NumPy takes 0..2**32-1")
        random = np.random.RandomState(self._order_seed)
        drawn = [[random.permutation(size) for size in sizes] for _ in range(images)]
        return tuple(torch.from_numpy(np.stack(rows)).to(device) for rows in zip(*drawn, strict=True))

    def latents(self, denoised_BlK: Tensor, step: int) -> Tensor:
        return denoised_BlK


_LABELS, _TOKENS, _EXPONENTIAL, _NORMAL, _ORDER = 1, 2, 3, 4, 5
"""Streams of `PerImageNoise`."""


class PerImageNoise:
    """Counter-based noise: the noise of image i does not depend on batch, order or number of workers.

    Neither do its tokens, unless the rounding of another batch size decides between two nearly equal ones. A token is
    drawn by inverting the cumulative distribution at one uniform number, a hash of (run_seed, image, step, position),
    whose integers are equal on every device.

    A kernel may draw the same numbers itself (`counter`); `accept` then hears its ids.
    """

    kernels_draw: ClassVar[bool] = True
    """False for a noise with `tokens` of its own and no `accept`: it is asked for tokens, from logits."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.kernels_draw = "accept" in vars(cls) or ("tokens" not in vars(cls) and cls.kernels_draw)

    def __init__(self, run_seed: int, image_indices: Sequence[int] | range) -> None:
        if len(image_indices) == 0:
            raise UserError("PerImageNoise needs at least one image index")
        self._seed = _integer("seed", run_seed)
        indices = image_indices if isinstance(image_indices, range) else [_integer("image", i) for i in image_indices]
        self._images_B = torch.tensor(indices, dtype=torch.int64)
        self._keys: dict[tuple[int, torch.device], Tensor] = {}

    def labels(self, count: int, num_classes: int) -> Tensor:
        u_B1 = self._uniform((1,), stream=_LABELS, step=0, device=torch.device("cpu"))
        self._check_batch(count)
        return (u_B1[:, 0] * num_classes).to(torch.int64)

    def tokens(self, logits_BlV: Tensor, step: int, *, one_by_one: bool = False) -> Tensor:
        self._check_batch(len(logits_BlV))
        u_Bl = self._uniform(logits_BlV.shape[1:2], stream=_TOKENS, step=step, device=logits_BlV.device)
        return inverted(logits_BlV, u_Bl)

    def token_keys(self, device: torch.device) -> Tensor:
        """Keys (B,) int64 of the images' tokens, for a kernel that draws the numbers itself."""
        return self.keys(_TOKENS, device)

    def counter(self, step: int, batch: int, device: torch.device) -> Counter:
        """Return what a kernel needs to draw the numbers of `step` itself."""
        self._check_batch(batch)
        return Counter(self.token_keys(device), step)

    def accept(self, ids_Bl: Tensor, failed_Bl: Tensor, step: int) -> Tensor:
        """Hear what a kernel drew with `counter`, and where it could not; return the ids to go on with."""
        return ids_Bl

    def redrawn(self, positions_Bn: Tensor, step: int) -> Tensor:
        return positions_Bn

    def exponential(self, like_BlV: Tensor, step: int) -> Tensor:
        self._check_batch(len(like_BlV))
        u_BlV = self._uniform(like_BlV.shape[1:], stream=_EXPONENTIAL, step=step, device=like_BlV.device)
        return (-torch.log1p(-u_BlV)).to(like_BlV.dtype).clamp_min(torch.finfo(like_BlV.dtype).tiny)

    def normal(self, like_BX: Tensor, step: int) -> Tensor:
        (drawn_BX,) = self.normals(like_BX, range(step, step + 1))
        return drawn_BX

    def normals(self, like_BX: Tensor, steps: range, *, at_once: int = 2**20) -> Iterator[Tensor]:
        """Yield `normal` of every step, drawn `at_once` numbers at a time: a draw of its own costs forty kernels."""
        self._check_batch(len(like_BX))
        keys_B, count = self.keys(_NORMAL, like_BX.device), like_BX[0].numel()
        numbers_S1 = torch.arange(steps.start, steps.stop, steps.step, device=like_BX.device).unsqueeze(1)
        for some_s1 in numbers_S1.split(max(1, at_once // max(1, like_BX.numel()))):
            u_sB2n = uniforms(keys_B, some_s1, 2 * count).unflatten(-1, (2, count))
            radius_sBn, turn_sBn = (-2 * torch.log1p(-u_sB2n[..., 0, :])).sqrt(), 2 * math.pi * u_sB2n[..., 1, :]
            normal_sBn = (radius_sBn * turn_sBn.cos()).to(like_BX.dtype)
            yield from normal_sBn.view(-1, *like_BX.shape)

    def orders(self, images: int, sizes: tuple[int, ...], device: torch.device) -> tuple[Tensor, ...]:
        self._check_batch(images)
        drawn = (self._uniform((n,), stream=_ORDER, step=i, device=device) for i, n in enumerate(sizes))
        return tuple(u_Bn.argsort(dim=1, stable=True) for u_Bn in drawn)

    def latents(self, denoised_BlK: Tensor, step: int) -> Tensor:
        return denoised_BlK

    def _check_batch(self, batch: int) -> None:
        if batch != len(self._images_B):
            raise UserError(f"noise was made for {len(self._images_B)} images, the call has {batch}")

    def _uniform(self, shape: Sequence[int], *, stream: int, step: int, device: torch.device) -> Tensor:
        """Draw uniform fp64 numbers in [0, 1), (B, *shape), one per image and position."""
        count = 1
        for size in shape:
            count *= size
        return uniforms(self.keys(stream, device), step, count).view(-1, *shape)

    def keys(self, stream: int, device: torch.device) -> Tensor:
        """Keys (B,) int64 of the images' random numbers in one stream."""
        if (stream, device) not in self._keys:
            # Once per device: a copy from the host in every step would stall it.
            self._keys[stream, device] = image_keys(self._seed, stream, self._images_B.to(device))
        return self._keys[stream, device]

    def replayed(self, step: int) -> None:
        """Hear that the tokens of `step` were drawn from these keys by a recorded call (arvbench.adapters.graphs)."""


def keeps_order(noise: Noise) -> bool:
    """Return True for a noise that is one stream: a draw that is left out changes all later ones."""
    return not isinstance(noise, PerImageNoise)


def normals_of(noise: Noise, like_BX: Tensor, steps: range) -> Iterator[Tensor]:
    """Yield normal draws of these steps: several at a time of counter-based noise, else each when it is asked for."""
    if isinstance(noise, PerImageNoise):
        return noise.normals(like_BX, steps)
    return (noise.normal(like_BX, step) for step in steps)


class TokenNoise(PerImageNoise):
    """Noise of images that the ids of their tokens decide: equal in any batch, for decodes that belong to no call."""

    def __init__(self, ids_BN: Tensor) -> None:
        super().__init__(0, range(len(ids_BN)))
        self._images_B = digests(ids_BN)


class BufferedNoise(PerImageNoise):
    """Noise whose keys stay in one place on `device`, for recorded calls: zero until `load`."""

    def __init__(self, like: PerImageNoise, device: torch.device) -> None:
        super().__init__(0, range(len(like.keys(_TOKENS, device))))
        for stream in (_TOKENS, _EXPONENTIAL, _NORMAL, _ORDER):
            self._keys[stream, device] = torch.zeros_like(like.keys(stream, device))

    def load(self, noise: PerImageNoise) -> None:
        """Draw the numbers of `noise` from now on."""
        for (stream, device), keys_B in self._keys.items():
            keys_B.copy_(noise.keys(stream, device))


class ReplayTokens:
    """Noise that returns given tokens for any logits: leads a sampler along another sampler's path, step by step."""

    def __init__(self, tokens: Sequence[Tensor]) -> None:
        self._tokens = tuple(tokens)

    def labels(self, count: int, num_classes: int) -> Tensor:
        raise UserError("replayed tokens have no labels of their own: pass the labels")

    def tokens(self, logits_BlV: Tensor, step: int, *, one_by_one: bool = False) -> Tensor:
        return self._tokens[step].to(logits_BlV.device)

    def redrawn(self, positions_Bn: Tensor, step: int) -> Tensor:
        return positions_Bn

    def exponential(self, like_BlV: Tensor, step: int) -> Tensor:
        raise UserError("more_smooth cannot be replayed from tokens")

    def normal(self, like_BX: Tensor, step: int) -> Tensor:
        """Draw the same variates in every replay."""
        return PerImageNoise(0, range(len(like_BX))).normal(like_BX, step)

    def orders(self, images: int, sizes: tuple[int, ...], device: torch.device) -> tuple[Tensor, ...]:
        """Draw the same orders in every replay."""
        return PerImageNoise(0, range(images)).orders(images, sizes, device)

    def latents(self, denoised_BlK: Tensor, step: int) -> Tensor:
        return self._tokens[step].to(denoised_BlK.device)


def _integer(what: str, value: Any) -> int:
    """Return a whole number of Python, NumPy or torch as int. Raises UserError for anything else."""
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise UserError(f"{what} {value!r} is no whole number: pass an int")
