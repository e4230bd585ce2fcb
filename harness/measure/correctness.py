"""The comparison made before any time is taken: a backend that computes something else has no speed.

Two judges. Any backend but the reference is compared with the reference, on the same weights and along the reference's
tokens, so that one early difference does not hide the rest: its guided logits, and the tokens that it would draw there
from the same noise. The reference, with whatever cache policy, is compared with one teacher-forced pass over its own
tokens, which uses no cache at all.

Shapes   B images, l tokens of one step, L tokens of all steps, V codebook entries
Range    logits natural-log, fp32
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from arvbench.adapters.sampler import Sampler, SilentObserver, StepOutput
from arvbench.adapters.sampling import Noise, PerImageNoise
from arvbench.adapters.schedule import Step
from arvbench.adapters.settings import SamplingSettings
from arvbench.results.schema import Correctness

CHECK_IMAGES = 4
"""Most images in the check; fewer when the case's batch is smaller."""
_NEVER_DRAWN = -100.0
CHECK_SEED = 20240403
"""Run seed of the check's noise, apart from those of timing and quality."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What one dtype may lose between two ways of computing the same thing."""

    relative: float
    """Largest logit difference, as a share of the judge's largest logit."""
    equal_tokens: float
    """Share of tokens that must be equal when both draw from the same noise along the judge's path, 0..1; one token
    may differ however few there are.
    """


# float32: another order of summation over thousands of terms moves logits by 1e-6 to 1e-4 of their scale. A token is
# drawn at one point of a cumulative distribution: with 256 bounds that move by 1e-6, one draw in 4,000 differs. M-VAR's
# two cache policies, which sum in another order, do differ in one of 520 (random:0). Half precisions round every
# activation (2**-11, 2**-8), so more draws near a bound change. Later steps of an image that goes its own way would all
# differ, which says little (two right implementations of bfloat16 agree on 38 % to 80 % of freely drawn tokens), hence
# one path for both: a difference stays in its place.
#
# Measured for demo/var on a CPU (weights demo and random:0, four noise seeds, cfg of the model and 4), largest logit
# difference as a share of the largest logit, and smallest share of equal tokens on the judge's path:
#                                                        bfloat16        float16
#   reference against its teacher-forced pass            0.011  0.935    0.0011  0.985
#   reference against itself with unfused attention      0.019  0.904    0.0027  0.983
#   reference against float32                            0.027  0.825    0.0029  0.971
# Of all demo models the most, reference against itself with unfused attention at cfg 4: demo/par, 0.054 in bfloat16.
# The optimized backend's CPU kernels differ from the reference by nothing in either dtype. A cache that loses one token
# is off by 0.10 (random:0) to 0.39 (demo) in every dtype: what is allowed lies between that and the worst of the table.
TOLERANCES = {
    torch.float32: Tolerance(1e-3, 0.995),
    torch.float16: Tolerance(1e-2, 0.9),
    torch.bfloat16: Tolerance(7e-2, 0.8),
}


def reference_twin(sampler: Sampler) -> Sampler:
    """The reference backend on the very same modules: no weight is loaded or copied twice."""
    return sampler.spec.sampler(
        sampler.spec,
        sampler.modules(),
        weights=sampler.weights,
        backend="reference",
        device=sampler.device,
        dtype=sampler.dtype,
    )


def check_correctness(
    sampler: Sampler,
    settings: SamplingSettings,
    *,
    cache_policy: str | None,
    batch: int,
    watch: AbstractContextManager[object] | None = None,
) -> Correctness:
    """Compare `sampler` with its judge on at most CHECK_IMAGES images of spread-out classes.

    One call of `sampler` runs inside `watch`, so that what it used can be recorded.
    """
    labels = spread_labels(min(batch, CHECK_IMAGES), sampler.spec.num_classes)
    check = _against_teacher_forcing if sampler.backend == "reference" else _against_reference
    try:
        return check(sampler, settings, cache_policy, labels, watch or nullcontext())
    except _NotANumber as found:
        return Correctness(
            judge=f"finite logits (there is a NaN in step {found.step})",
            images=len(labels),
            max_abs_diff=float("inf"),
            tolerance=0.0,
            equal_tokens=0.0,
            required_equal_tokens=TOLERANCES[sampler.dtype].equal_tokens,
            passed=False,
        )


def spread_labels(count: int, classes: int) -> list[int]:
    """`count` labels in 0..classes-1, spread evenly; the same for every batch of the same size."""
    return [(index * classes) // count if count <= classes else index % classes for index in range(count)]


class _NotANumber(Exception):
    """Logits from which no token can be drawn."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step


class _CheckedNoise(PerImageNoise):
    """Draws no token from NaN: what came out would be an id that does not exist, and an obscure error later."""

    def tokens(self, logits_BlV: Tensor, step: int, *, one_by_one: bool = False) -> Tensor:
        if logits_BlV.isnan().any():
            raise _NotANumber(step)
        return super().tokens(logits_BlV, step)


class _GuidedNoise(_CheckedNoise):
    """Keeps the tokens it draws and returns those of a path: what a sampler would draw on another one's path."""

    def __init__(self, path: _Recorder) -> None:
        super().__init__(CHECK_SEED, range(len(path.drawn[0])))
        self._path = path
        self.drawn: list[Tensor] = []

    def tokens(self, logits_BlV: Tensor, step: int, *, one_by_one: bool = False) -> Tensor:
        self.drawn.append(super().tokens(logits_BlV, step))
        return self._path.drawn[step].to(logits_BlV.device)

    def redrawn(self, positions_Bn: Tensor, step: int) -> Tensor:
        """The judge's choice: with another one, all that follows would have other inputs."""
        judges_Bn = self._path.redrawn[step]
        assert judges_Bn is not None
        return judges_Bn.to(positions_Bn.device)


class _Recorder(SilentObserver):
    """Keeps what every step drew, and its logits on the CPU, so that the check does not need the device's memory."""

    def __init__(self) -> None:
        self.drawn: list[Tensor] = []
        self.redrawn: list[Tensor | None] = []
        self.guided: list[Tensor] = []
        self.predicted: list[int] = []
        """Steps that predict tokens for the first time; a teacher-forced pass has no refinement of drawn ones."""
        self.conditional: list[Tensor] = []
        """Of the steps in `predicted`."""

    def step_end(self, step: Step, output: StepOutput) -> None:
        self.drawn.append(output.tokens)
        self.redrawn.append(output.redrawn)
        self.guided.append(output.logits.float().cpu())
        if step.kind != "mask":
            self.predicted.append(step.index)
            self.conditional.append(output.logits_pre_cfg[: len(output.logits)].float().cpu())


def _against_reference(
    sampler: Sampler,
    settings: SamplingSettings,
    cache_policy: str | None,
    labels: Sequence[int],
    watch: AbstractContextManager[object],
) -> Correctness:
    smooth = getattr(settings, "more_smooth", False)
    # It feeds a mixture of codes forward, not the drawn token, so a path of tokens says nothing about its logits. They
    # are compared with it switched off: the transformer's work is the same.
    settings = settings.model_copy(update={"more_smooth": False}) if smooth else settings
    _, expected = _run(reference_twin(sampler), settings, None, labels)
    guided = _GuidedNoise(expected)
    with watch:
        _, got = _run(sampler, settings, cache_policy, labels, guided)
    return _verdict(
        "reference backend" + (" (without more_smooth, which cannot be replayed)" if smooth else ""),
        sampler.dtype,
        expected=expected.guided,
        got=got.guided,
        equal=equal_share(expected.drawn, guided.drawn),
    )


def _against_teacher_forcing(
    sampler: Sampler,
    settings: SamplingSettings,
    cache_policy: str | None,
    labels: Sequence[int],
    watch: AbstractContextManager[object],
) -> Correctness:
    """One pass gives conditional logits only: they are what is compared, and what both draw tokens from."""
    smooth = getattr(settings, "more_smooth", False)
    settings = settings.model_copy(update={"more_smooth": False}) if smooth else settings
    with watch:
        path, stepped = _run(sampler, settings, cache_policy, labels)
    logits_BLV = sampler.teacher_forced(path, labels, settings=settings).float().cpu()
    forced = logits_BLV.split([t.shape[1] for t in path], dim=1)
    noise = _CheckedNoise(CHECK_SEED, range(len(labels)))
    draws = [
        [noise.tokens(logits, step) for step, logits in zip(stepped.predicted, way, strict=True)]
        for way in (forced, stepped.conditional)
    ]
    without = [
        name for name, there in (("more_smooth", smooth), ("refinement", len(stepped.drawn) > len(path))) if there
    ]
    return _verdict(
        "teacher-forced pass" + (f" (without {' and '.join(without)}, which it does not have)" if without else ""),
        sampler.dtype,
        expected=list(forced),
        got=stepped.conditional,
        equal=equal_share(*draws),
    )


def _run(
    sampler: Sampler,
    settings: SamplingSettings,
    cache_policy: str | None,
    labels: Sequence[int],
    noise: Noise | None = None,
) -> tuple[tuple[Tensor, ...], _Recorder]:
    """Tokens of the images and what every step did; without `noise` tokens are drawn freely."""
    recorder = _Recorder()
    samples = sampler.sample(
        labels,
        settings,
        noise=noise or _CheckedNoise(CHECK_SEED, range(len(labels))),
        cache=sampler.make_cache(cache_policy, settings, batch=len(labels)),
        observer=recorder,
    )
    return samples.tokens, recorder


def equal_share(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Share of equal tokens over all steps, 0..1."""
    same = sum(int((a.cpu() == b.cpu()).sum()) for a, b in zip(one, other, strict=True))
    return same / sum(tokens.numel() for tokens in one)


def _verdict(
    judge: str, dtype: torch.dtype, *, expected: Sequence[Tensor], got: Sequence[Tensor], equal: float
) -> Correctness:
    allowed = TOLERANCES[dtype]
    # FlexVAR sets tokens that must not be drawn to this; it says nothing about the scale of the others.
    scale = max(float(logits.masked_fill(logits == _NEVER_DRAWN, 0).abs().max()) for logits in expected)
    worst = max(_distance(a, b) for a, b in zip(expected, got, strict=True))
    tolerance = allowed.relative * max(scale, 1.0)
    required = min(allowed.equal_tokens, 1 - 1 / sum(logits.shape[0] * logits.shape[1] for logits in expected))
    return Correctness(
        judge=judge,
        images=len(expected[0]),
        max_abs_diff=worst,
        tolerance=tolerance,
        equal_tokens=equal,
        required_equal_tokens=required,
        # Written so that a NaN on either side fails.
        passed=worst <= tolerance and equal >= required,
    )


def _distance(expected: Tensor, got: Tensor) -> float:
    """Largest absolute difference; NaN or an infinity on either side counts as infinitely far."""
    difference = (expected - got).abs().max()
    return float(difference) if torch.isfinite(difference) else float("inf")
