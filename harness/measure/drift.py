"""Drift of a lossy case: its tokens, logits and images beside those of an exact one, on the same noise.

The exact case, here called the judge, is the plain model (no method) under the static cache. A lossy case is not wrong
when it draws other tokens. What it changes is measured along the judge's own tokens (teacher-forced), where one
difference stays local, and on its own tokens, which is what a user gets. Scales that a method leaves out have no
tokens to compare; what they lack shows in the images.

Where steps yield latents, the distance between both sides' latents stands in the place of tokens and logits: the root
mean square of their difference, as a share of that of the judge's latents.

A lossy cache or method is compared in the case's own dtype, so that one thing differs; a half precision by itself is
compared with float32 from the same weights.

Shapes   B images, l tokens of one step, V codebook entries, K latent channels, H W image height and width
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from arvbench.adapters.call import Observer, Samples, SilentObserver, StepOutput
from arvbench.adapters.decoding import decode_in_half
from arvbench.adapters.sampler import Sampler
from arvbench.adapters.sampling import PerImageNoise
from arvbench.adapters.schedule import Step
from arvbench.adapters.settings import SamplingSettings
from arvbench.harness.measure.correctness import spread_labels
from arvbench.harness.measure.perceptual import Lpips
from arvbench.results.drift import Average, Drift, DriftStep

DRIFT_SEED = 20250526
"""Run seed of the noise, apart from those of the check, timing and quality."""
AGAINST = "static"
_CHUNK = 8
"""Most images at a time: the logits of all their steps are held once."""
_RESAMPLES = 2_000
_SSIM_WINDOW = 7


@dataclass(slots=True)
class _Sums:
    """Numbers by image and step, (images, steps) each when stacked."""

    tokens: list[int] = field(default_factory=list)
    """Tokens that each step draws for an image: the weights of means over steps."""
    forced: list[Tensor] = field(default_factory=list)
    free: list[Tensor] = field(default_factory=list)
    kl: list[Tensor] = field(default_factory=list)
    """Of tokens; `forced` and `free` are shares of equal tokens, or distances of latents."""
    psnr: list[float] = field(default_factory=list)
    """Infinite for identical images."""
    ssim: list[float] = field(default_factory=list)
    lpips: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftRequest:
    """The lossy side of a comparison, and its extent."""

    cache_policy: str | None
    batch: int
    images: int


def measure_drift(
    sampler: Sampler,
    settings: SamplingSettings,
    request: DriftRequest,
    *,
    judge: Sampler | None = None,
    lpips: Lpips | None = None,
) -> Drift:
    """Compare images of spread-out classes with those of `judge` under the static cache.

    `judge` None is the sampler itself, without its method; without `lpips` there is no such number.
    """
    judge, policy = judge or plain_twin(sampler), request.cache_policy
    replayable = settings.replayable()
    labels, sums = spread_labels(request.images, sampler.spec.num_classes), _Sums()
    chunk = min(request.batch, _CHUNK)
    for start in range(0, request.images, chunk):
        indices = range(start, min(request.images, start + chunk))
        pair = _Pair(judge, sampler, replayable, policy)
        static, free = _compare(pair, [labels[i] for i in indices], indices, sums)
        if lpips is not None:
            sums.lpips += lpips.distances(static.images, free.images)
    steps = sampler.schedule(replayable, batch=1, cache=policy).steps
    numbers = _of_latents(steps, sums) if sampler.spec.latent_dim else _of_tokens(steps, sums)
    drift = _summary(replayable, sums, against=_against(judge, sampler)).model_copy(update=numbers)
    if lpips is None:
        return drift
    return drift.model_copy(update={"lpips": average(np.array(sums.lpips)), "lpips_library": lpips.library})


def plain_twin(sampler: Sampler) -> Sampler:
    """Return a sampler of the model without its method, with the same modules; the sampler itself without one."""
    plain = sampler.spec.plain
    if plain is None:
        return sampler
    twin: Sampler = plain.sampler(
        plain,
        {part: module for part, module in sampler.modules().items() if part in ("transformer", "tokenizer")},
        weights=sampler.weights,
        backend=sampler.backend,
        device=sampler.device,
        dtype=sampler.dtype,
    )
    if sampler.half_decoder is not None:  # the method alone differs
        decode_in_half(twin)
    return twin


def _against(judge: Sampler, sampler: Sampler) -> str:
    method = f", without method {sampler.spec.family}" if sampler.spec.plain is not None else ""
    dtype = f", {str(judge.dtype).removeprefix('torch.')}" if judge.dtype != sampler.dtype else ""
    return exact_policy(judge) + method + dtype


def exact_policy(sampler: Sampler) -> str:
    """Return the exact cache policy of the judge: static, or the family's own where it has no such memory."""
    return AGAINST if AGAINST in sampler.cache_policies() else sampler.default_cache


class _Pair(NamedTuple):
    """The two sides of a comparison."""

    judge: Sampler
    sampler: Sampler
    settings: SamplingSettings
    policy: str | None


def _compare(pair: _Pair, labels: Sequence[int], indices: range, sums: _Sums) -> tuple[Samples, Samples]:
    """Add the numbers of the images `indices`, and return those of both sides."""
    ids = pair.sampler.spec.latent_dim is None
    path, drawn = _LogitKeeper() if ids else _Reader(), _Reader()
    static = _run(pair.judge, pair.settings, exact_policy(pair.judge), labels, _Drawing(indices), path)
    along = _Drawing(indices, path.tokens)
    beside = _LogitReader(path.logits) if isinstance(path, _LogitKeeper) else None
    _run(pair.sampler, pair.settings, pair.policy, labels, along, beside)
    free = _run(pair.sampler, pair.settings, pair.policy, labels, _Drawing(indices), drawn)
    common, compared = path.tokens[: len(drawn.tokens)], _agreement if ids else _distance
    sums.tokens = [step.shape[1] for step in common]
    sums.forced.append(compared(common, along.drawn))
    sums.free.append(compared(common, drawn.tokens))
    if beside is not None:
        sums.kl.append(torch.stack(beside.kl_B, dim=1))
    for expected_3HW, actual_3HW in zip(static.images, free.images, strict=True):
        psnr, ssim = image_likeness(expected_3HW, actual_3HW)
        sums.psnr.append(psnr)
        sums.ssim.append(ssim)
    return static, free


class _Drawing(PerImageNoise):
    """Records the tokens that it draws, or the latents that it hears; with a path it returns that path's instead."""

    def __init__(self, indices: range, path: Sequence[Tensor] | None = None) -> None:
        super().__init__(DRIFT_SEED, indices)
        self._path = path
        self.drawn: list[Tensor] = []

    def tokens(self, logits_BlV: Tensor, step: int, *, one_by_one: bool = False) -> Tensor:
        drawn_Bl = super().tokens(logits_BlV, step, one_by_one=one_by_one)
        return self.accept(drawn_Bl, drawn_Bl, step)

    def accept(self, ids_Bl: Tensor, failed_Bl: Tensor, step: int) -> Tensor:
        return self._led(ids_Bl, step)

    def latents(self, denoised_BlK: Tensor, step: int) -> Tensor:
        return self._led(denoised_BlK, step)

    def _led(self, yielded: Tensor, step: int) -> Tensor:
        self.drawn.append(yielded.cpu())
        return yielded if self._path is None else self._path[step].to(yielded)


class _Reader(SilentObserver):
    """Keeps the tokens of every step on the CPU."""

    def __init__(self) -> None:
        self.tokens: list[Tensor] = []

    def step_end(self, step: Step, output: StepOutput) -> None:
        self.tokens.append(output.tokens.cpu().clone())


class _LogitKeeper(_Reader):
    """Keeps the guided logits too."""

    def __init__(self) -> None:
        super().__init__()
        self.logits: list[Tensor] = []

    def step_end(self, step: Step, output: StepOutput) -> None:
        super().step_end(step, output)
        self.logits.append(output.logits.to("cpu", torch.float32, copy=True))


class _LogitReader(SilentObserver):
    """Compares the logits of every step with those expected."""

    def __init__(self, expected: Sequence[Tensor]) -> None:
        self._expected = expected
        self.kl_B: list[Tensor] = []
        """Divergence of every image, a tensor (B,) per step."""

    def step_end(self, step: Step, output: StepOutput) -> None:
        p_BlV = self._expected[step.index].double().log_softmax(dim=-1)
        q_BlV = output.logits.cpu().double().log_softmax(dim=-1)
        self.kl_B.append((p_BlV.exp() * (p_BlV - q_BlV)).sum(dim=-1).mean(dim=1))


def _run(
    sampler: Sampler,
    settings: SamplingSettings,
    policy: str | None,
    labels: Sequence[int],
    noise: _Drawing,
    observer: Observer | None,
) -> Samples:
    cache = sampler.make_cache(policy, settings, batch=len(labels))
    return sampler.sample(labels, settings, noise=noise, cache=cache, observer=observer or SilentObserver())


def _agreement(expected: Sequence[Tensor], actual: Sequence[Tensor]) -> Tensor:
    """Share of equal tokens, (B, steps)."""
    equal = [(a == b).double().mean(dim=1) for a, b in zip(expected, actual, strict=True)]
    return torch.stack(equal, dim=1)


def _distance(expected: Sequence[Tensor], actual: Sequence[Tensor]) -> Tensor:
    """Root mean square difference of latents over that of `expected`, (B, steps)."""
    pairs = [(a.double(), b.double()) for a, b in zip(expected, actual, strict=True)]
    return torch.stack([((a - b).square().mean(dim=(1, 2)) / a.square().mean(dim=(1, 2))).sqrt() for a, b in pairs], 1)


def image_likeness(expected_3HW: Tensor, actual_3HW: Tensor) -> tuple[float, float]:
    """PSNR in dB, infinite for identical images, and SSIM of two uint8 images, by scikit-image."""
    # Half a second, which only lossy cases pay.
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    expected, actual = (image.permute(1, 2, 0).cpu().numpy() for image in (expected_3HW, actual_3HW))
    if np.array_equal(expected, actual):
        return float("inf"), 1.0
    ssim = structural_similarity(expected, actual, channel_axis=-1, data_range=255, win_size=_SSIM_WINDOW)
    return float(peak_signal_noise_ratio(expected, actual, data_range=255)), float(ssim)


def _of_tokens(steps: Sequence[Step], sums: _Sums) -> dict[str, Any]:
    """Numbers of steps that draw tokens."""
    forced, free, kl = (torch.cat(parts).numpy() for parts in (sums.forced, sums.free, sums.kl))
    differing = [np.flatnonzero(row < 1) for row in free]
    return {
        "steps": tuple(
            DriftStep(
                step=step.index,
                name=step.name,
                forced_agreement=float(forced[:, step.index].mean()),
                free_agreement=float(free[:, step.index].mean()),
                kl=float(kl[:, step.index].mean()),
            )
            for step in steps
        ),
        "forced_agreement": average(np.average(forced, axis=1, weights=sums.tokens)),
        "free_agreement": average(np.average(free, axis=1, weights=sums.tokens)),
        "kl": average(np.average(kl, axis=1, weights=sums.tokens)),
        "first_diverging": tuple(int(found[0]) if len(found) else None for found in differing),
    }


def _of_latents(steps: Sequence[Step], sums: _Sums) -> dict[str, Any]:
    """Numbers of steps that yield latents."""
    forced, free = (torch.cat(parts).numpy() for parts in (sums.forced, sums.free))
    return {
        "steps": tuple(
            DriftStep(
                step=step.index,
                name=step.name,
                forced_distance=float(forced[:, step.index].mean()),
                free_distance=float(free[:, step.index].mean()),
            )
            for step in steps
        ),
        "forced_distance": average(np.average(forced, axis=1, weights=sums.tokens)),
        "free_distance": average(np.average(free, axis=1, weights=sums.tokens)),
    }


def _summary(settings: SamplingSettings, sums: _Sums, *, against: str) -> Drift:
    """Sampling, and likeness of the images."""
    finite = [value for value in sums.psnr if np.isfinite(value)]
    return Drift(
        against=against,
        images=len(sums.psnr),
        seed=DRIFT_SEED,
        temperature=float(getattr(settings, "temperature", 1.0)),
        temperatures=getattr(settings, "temperatures", None),
        top_k=settings.top_k,
        top_p=settings.top_p,
        steps=(),
        identical_images=len(sums.psnr) - len(finite),
        psnr_db=average(np.array(finite)) if finite else None,
        ssim=average(np.array(sums.ssim)),
        ssim_library=f"scikit-image {version('scikit-image')}, window {_SSIM_WINDOW}, uint8",
    )


def average(values_N: np.ndarray) -> Average:
    """Mean over images, and the percentiles of means of resampled images (seeded: equal in every run)."""
    drawn = np.random.default_rng(0).integers(len(values_N), size=(_RESAMPLES, len(values_N)))
    low, high = np.percentile(values_N[drawn].mean(axis=1), (2.5, 97.5))
    return Average(mean=float(values_N.mean()), interval=(float(low), float(high)))
