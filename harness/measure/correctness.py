"""Correctness check before any time is taken: a backend that computes something else has no speed.

There are three judges:
  reference backend     judges every other backend, on the same weights: the guided logits along the reference's tokens,
                        so that one early difference does not hide the rest, and the tokens drawn there from equal noise
                        (a lossy cache policy is judged by the reference under the same policy)
  teacher-forced pass   judges the reference under any cache policy: one pass over its own tokens, without a cache
  recomputation         takes its place for steps that yield latents: each is denoised again, from equal noise and the
                        latents of the steps before it, without a cache

Latents are compared where logits are for ids: there is nothing to draw from them, so no tokens are counted.

The judged call must also do its work inside its events (integrity.py), and the images that the reference and another
backend decode from one path of tokens must be alike.

Shapes   B images, l tokens of one step, L tokens of all steps, V codebook entries, K latent channels
Range    logits natural-log, fp32
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from arvbench.adapters.cache.request import is_lossy
from arvbench.adapters.call import Samples
from arvbench.adapters.methods.fastvar import FastVarSampler
from arvbench.adapters.sampler import Sampler
from arvbench.adapters.sampling import EXCLUDED, Noise
from arvbench.adapters.settings import SamplingSettings
from arvbench.harness.measure.integrity import ProductCounter, require_plain
from arvbench.harness.measure.path import CHECK_SEED as CHECK_SEED
from arvbench.harness.measure.path import CheckedNoise, GuidedNoise, NotANumber, StepRecorder, kept
from arvbench.results.schema import Correctness

CHECK_IMAGES = 4
"""Most images in the check; fewer when the case's batch is smaller."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Rounding differences that are allowed between two right implementations in one dtype."""

    relative: float
    """Largest logit difference, as a share of the judge's largest logit."""
    equal_tokens: float
    """Share of tokens that must be equal when both draw from equal noise along the judge's path, 0..1. One token may
    differ, however few there are.
    """
    images: float
    """Largest mean absolute difference of an image's floats, nominally in [0, 1], between two decodes of one path."""
    latents: float
    """Largest difference of the latents of a step, as a share of the judge's largest latent."""


# float32: another order of summation over thousands of terms moves logits by 1e-6 to 1e-4 of their scale. A token is
# drawn at one point of a cumulative distribution: with 256 bounds that move by 1e-6, one draw in 4,000 differs. M-VAR's
# two cache policies, which sum in another order, do differ in one of 520 (random:0). Half precisions round every
# activation (2**-11, 2**-8), so more draws near a bound change. After one other token, all later steps of a freely
# drawn image differ, which says little: two right implementations in bfloat16 agree on 38 % to 80 % of its tokens. Both
# sides therefore follow one path, on which a difference stays local.
#
# Measured for demo/var on a CPU (weights demo and random:0, four noise seeds, cfg of the model and 4), largest logit
# difference as a share of the largest logit, and smallest share of equal tokens on the judge's path:
#                                                        bfloat16        float16
#   reference against its teacher-forced pass            0.011  0.935    0.0011  0.985
#   reference against itself with unfused attention      0.019  0.904    0.0027  0.983
#   reference against float32                            0.027  0.825    0.0029  0.971
# The largest of all demo models, reference against itself with unfused attention at cfg 4: demo/par, 0.054 in bfloat16.
# The optimized backend's CPU kernels do not differ from the reference in either dtype; packed weights, which exist in
# float32 alone, do by 3e-6 (nar-b, random:0). A cache that loses one token is off by 0.10 (random:0) to 0.39 (demo) in
# every dtype: the tolerances lie between that and the worst of the table.
TOLERANCES = {
    torch.float32: Tolerance(1e-3, 0.995, 1e-3, 1e-3),
    torch.float16: Tolerance(1e-2, 0.9, 1e-2, 3e-2),
    torch.bfloat16: Tolerance(7e-2, 0.8, 3e-2, 2e-1),
}


def reference_twin(sampler: Sampler) -> Sampler:
    """Return a sampler with the reference backend and the modules of `sampler`, without a copy of the weights."""
    twin: Sampler = sampler.spec.sampler(
        sampler.spec,
        sampler.modules(),
        weights=sampler.weights,
        backend="reference",
        device=sampler.device,
        dtype=sampler.dtype,
    )
    return twin


def check_correctness(
    sampler: Sampler,
    settings: SamplingSettings,
    *,
    cache_policy: str | None,
    batch: int,
    watch: AbstractContextManager[object] | None = None,
    tolerance: Tolerance | None = None,
) -> Correctness:
    """Compare `sampler` with its judge on at most CHECK_IMAGES images of spread-out classes.

    One call of `sampler` runs inside `watch`, which may record its operators. `tolerance` replaces the entry of
    TOLERANCES for the sampler's dtype.
    """
    labels = spread_labels(min(batch, CHECK_IMAGES), sampler.spec.num_classes)
    tolerance = tolerance or TOLERANCES[sampler.dtype]
    own_judge = sampler.backend == "reference" and not is_lossy(cache_policy)
    own_judge = own_judge and not isinstance(sampler, FastVarSampler)  # one pass cannot prune scale by scale
    by_itself = _with_recomputation if sampler.spec.latent_dim else _with_teacher_forcing
    compare = by_itself if own_judge else _with_reference
    try:
        return compare(sampler, settings, cache_policy, labels, watch or nullcontext()).verdict(tolerance)
    except NotANumber as nan:
        counted = sampler.spec.latent_dim is None
        return Correctness(
            judge=f"finite {'logits' if counted else 'latents'} (there is a NaN in step {nan.step})",
            images=len(labels),
            max_abs_diff=float("inf"),
            tolerance=0.0,
            equal_tokens=0.0 if counted else None,
            required_equal_tokens=tolerance.equal_tokens if counted else None,
            passed=False,
        )


def spread_labels(count: int, classes: int) -> list[int]:
    """Return `count` labels spread evenly over 0..classes-1."""
    return [(index * classes) // count if count <= classes else index % classes for index in range(count)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Logits and tokens of a judge and of a sampler along one path, one tensor per step.

    Where steps yield latents, these stand in the place of logits, and there are no tokens.
    """

    judge: str
    expected: Sequence[Tensor]
    """The judge's logits, (B, l, V) fp32."""
    actual: Sequence[Tensor]
    """The sampler's logits, (B, l, V) fp32."""
    expected_tokens: Sequence[Tensor]
    """Tokens that the judge draws, (B, l)."""
    actual_tokens: Sequence[Tensor]
    """Tokens that the sampler draws from equal noise, (B, l)."""
    image_diff: float | None = None
    """Mean absolute difference of the decoded floats, of the image with the largest; None without a second decode."""

    @property
    def of_latents(self) -> bool:
        return not self.expected_tokens

    def verdict(self, tolerance: Tolerance) -> Correctness:
        """Pass when both logits and tokens are within `tolerance`; a NaN on either side fails."""
        # The logit of excluded tokens says nothing about the scale of the others.
        scale = max(float(logits.masked_fill(logits == EXCLUDED, 0).abs().max()) for logits in self.expected)
        worst = max(_distance(a, b) for a, b in zip(self.expected, self.actual, strict=True))
        allowed = (tolerance.latents if self.of_latents else tolerance.relative) * max(scale, 1.0)
        equal, required = (None, None) if self.of_latents else self._agreement(tolerance)
        return Correctness(
            judge=self.judge,
            images=len(self.expected[0]),
            max_abs_diff=worst,
            tolerance=allowed,
            equal_tokens=equal,
            required_equal_tokens=required,
            image_diff=self.image_diff,
            # Written so that a NaN fails.
            passed=worst <= allowed
            and (equal is None or required is None or equal >= required)
            and (self.image_diff is None or self.image_diff <= tolerance.images),
        )

    def _agreement(self, tolerance: Tolerance) -> tuple[float, float]:
        """Share of equal tokens, and the share that is required."""
        count = sum(tokens.numel() for tokens in self.expected_tokens)
        pairs = zip(self.expected_tokens, self.actual_tokens, strict=True)
        equal = sum(int((a.cpu() == b.cpu()).sum()) for a, b in pairs) / count
        return equal, min(tolerance.equal_tokens, 1 - 1 / count)


def _distance(expected: Tensor, actual: Tensor) -> float:
    """Largest absolute difference; infinite when either side contains a NaN or an infinity."""
    difference = (expected - actual).abs().max()
    return float(difference) if torch.isfinite(difference) else float("inf")


def _with_reference(
    sampler: Sampler,
    settings: SamplingSettings,
    cache_policy: str | None,
    labels: Sequence[int],
    watch: AbstractContextManager[object],
) -> Comparison:
    replayable, omitted = _replayable(settings)
    # A lossy case is not wrong where it differs from an exact one (`drift`): the reference runs the same.
    lossy, name = is_lossy(cache_policy), "reference backend"
    right, expected = _run(reference_twin(sampler), replayable, cache_policy if lossy else None, labels)
    name += " with the same method" * (sampler.spec.plain is not None) + " with the same lossy cache" * lossy
    noise = GuidedNoise(expected)
    samples, actual = _run_watched(sampler, replayable, cache_policy, labels, watch, noise)
    return Comparison(
        judge=_judge_name(name, omitted, "cannot be replayed"),
        expected=expected.guided,
        actual=actual.guided,
        expected_tokens=() if sampler.spec.latent_dim else expected.drawn,
        actual_tokens=noise.drawn,
        image_diff=image_difference(right.decoded, samples.decoded),
    )


def _with_teacher_forcing(
    sampler: Sampler,
    settings: SamplingSettings,
    cache_policy: str | None,
    labels: Sequence[int],
    watch: AbstractContextManager[object],
) -> Comparison:
    """One pass gives conditional logits only: they are compared, and both sides draw their tokens from them."""
    replayable, omitted = _replayable(settings)
    samples, stepped = _run_watched(sampler, replayable, cache_policy, labels, watch)
    path = samples.tokens
    if len(stepped.drawn) > len(path):
        omitted.append("refinement")
    logits_BLV = sampler.teacher_forced(path, labels, settings=replayable).float().cpu()
    forced = logits_BLV.split([t.shape[1] for t in path], dim=1)
    noise = CheckedNoise(CHECK_SEED, range(len(labels)))

    def tokens(logits_by_step: Sequence[Tensor]) -> list[Tensor]:
        return [noise.tokens(logits, step) for step, logits in zip(stepped.predicted, logits_by_step, strict=True)]

    return Comparison(
        judge=_judge_name("teacher-forced pass", omitted, "it does not have"),
        expected=forced,
        actual=stepped.conditional,
        expected_tokens=tokens(forced),
        actual_tokens=tokens(stepped.conditional),
    )


def _with_recomputation(
    sampler: Sampler,
    settings: SamplingSettings,
    cache_policy: str | None,
    labels: Sequence[int],
    watch: AbstractContextManager[object],
) -> Comparison:
    """Every step is denoised again from the latents before it; both sides are guided and have equal noise."""
    replayable, omitted = _replayable(settings)
    samples, stepped = _run_watched(sampler, replayable, cache_policy, labels, watch)
    noise = CheckedNoise(CHECK_SEED, range(len(labels)))
    again = sampler.forced_latents(samples.tokens, labels, replayable, noise)
    return Comparison(
        judge=_judge_name("recomputation without a cache", omitted, "it does not have"),
        expected=[kept(latents_BlK) for latents_BlK in again],
        actual=stepped.guided,
        expected_tokens=(),
        actual_tokens=(),
    )


def _replayable(settings: SamplingSettings) -> tuple[SamplingSettings, list[str]]:
    """Return settings under which a path of tokens can be replayed, and the names of the settings they switch off.

    more_smooth feeds mixed codes forward instead of the drawn token, so a path of tokens does not determine its logits.
    The transformer does equal work without it.
    """
    replayable = settings.replayable()
    return replayable, [name for name, value in settings if getattr(replayable, name) != value]


def _judge_name(judge: str, omitted: Sequence[str], reason: str) -> str:
    return f"{judge} (without {' and '.join(omitted)}, which {reason})" if omitted else judge


def _run(
    sampler: Sampler,
    settings: SamplingSettings,
    cache_policy: str | None,
    labels: Sequence[int],
    noise: Noise | None = None,
    products: ProductCounter | None = None,
) -> tuple[Samples, StepRecorder]:
    """Return the images, and the recorded steps; without `noise`, tokens are drawn freely."""
    recorder = StepRecorder(products or ProductCounter())
    samples = sampler.sample(
        labels,
        settings,
        noise=noise or CheckedNoise(CHECK_SEED, range(len(labels))),
        cache=sampler.make_cache(cache_policy, settings, batch=len(labels)),
        observer=recorder,
    )
    require_plain("tokens and images of a sampling call", samples.images, samples.decoded, *samples.tokens)
    return samples, recorder


def _run_watched(
    sampler: Sampler,
    settings: SamplingSettings,
    cache_policy: str | None,
    labels: Sequence[int],
    watch: AbstractContextManager[object],
    noise: Noise | None = None,
) -> tuple[Samples, StepRecorder]:
    """Run as `_run` inside `watch`. Raises ContractError when work is done outside of the events."""
    schedule, products = sampler.schedule(settings, batch=len(labels), cache=cache_policy), ProductCounter()
    sampler.packed(schedule)  # tries oneDNN's operators once per process: no work of a call
    with watch, products:
        run = _run(sampler, settings, cache_policy, labels, noise, products)
    products.check(schedule)
    return run


def image_difference(expected_B3HW: Tensor, actual_B3HW: Tensor) -> float:
    """Mean absolute difference of the floats, of the image with the largest."""
    difference = (expected_B3HW.float() - actual_B3HW.float()).abs().flatten(1).mean(dim=1)
    return float(difference.max())
