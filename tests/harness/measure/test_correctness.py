"""The check before any time: right implementations pass, and wrong ones fail."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from broken_models import ForgetfulCache
from torch.nn.attention import SDPBackend, sdpa_kernel

from arvbench.adapters import load_sampler
from arvbench.adapters.cache.static import StaticCache
from arvbench.adapters.loading import demo_models
from arvbench.adapters.sampler import Sampler
from arvbench.harness.measure.correctness import (
    CHECK_IMAGES,
    TOLERANCES,
    Comparison,
    check_correctness,
    reference_twin,
    spread_labels,
)


def check(sampler, *, policy="static", batch=2, tolerance=None, **changes):
    settings = sampler.spec.settings.model_copy(update=changes)
    return check_correctness(sampler, settings, cache_policy=policy, batch=batch, tolerance=tolerance)


@pytest.mark.parametrize("policy", ["grow", "static"])
def test_the_reference_agrees_with_its_teacher_forced_pass(reference, policy):
    result = check(reference, policy=policy)
    assert result.passed and result.judge == "teacher-forced pass"
    assert 0 < result.max_abs_diff < result.tolerance
    assert result.equal_tokens == 1.0


@pytest.mark.parametrize("policy", ["grow", "static"])
def test_the_optimized_backend_agrees_with_the_reference(optimized, policy):
    result = check(optimized, policy=policy, batch=100)
    assert result.passed and result.judge == "reference backend"
    assert result.equal_tokens == 1.0
    assert result.images == CHECK_IMAGES


class NanCache(StaticCache):
    """Returns a NaN once, like a kernel that reads uninitialised memory."""

    def extend(self, layer, k_RHlD, v_RHlD):
        k, v = super().extend(layer, k_RHlD, v_RHlD)
        last = layer == self.shape.layers - 1 and v.shape[2] == self.shape.capacity_tokens
        return k, torch.full_like(v, torch.nan) if last else v


def with_cache(broken: type[StaticCache], backend: str, dtype: torch.dtype, weights: str) -> Sampler:
    sampler = load_sampler("demo/var", weights=weights, backend=backend, dtype=dtype)
    real = sampler.make_cache
    sampler.make_cache = lambda policy, settings, batch: broken(real("static", settings, batch=batch).shape)
    return sampler


BROKEN = list(product((ForgetfulCache, NanCache), ("reference", "optimized"), TOLERANCES, ("demo", "random:0")))


def by_default(broken, backend, dtype, weights):
    """Either fault in fp32, one of them in every type, and random weights in that with the loosest tolerance."""
    if weights == "random:0":
        return broken is ForgetfulCache and dtype is torch.bfloat16
    return broken is ForgetfulCache or dtype is torch.float32


@pytest.mark.parametrize(
    ("broken", "backend", "dtype", "weights"),
    [
        pytest.param(
            *case,
            marks=[] if by_default(*case) else [pytest.mark.slow],
            id="-".join((case[0].__name__, *map(str, case[1:]))),
        )
        for case in BROKEN
    ],
)
def test_a_broken_cache_fails_under_either_judge_by_its_logits_alone(broken, backend, dtype, weights):
    any_tokens = replace(TOLERANCES[dtype], equal_tokens=0.0)
    result = check(with_cache(broken, backend, dtype, weights), tolerance=any_tokens)
    assert not result.passed
    assert result.max_abs_diff > result.tolerance
    assert result.required_equal_tokens == 0.0
    if broken is NanCache:
        assert math.isinf(result.max_abs_diff)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("backend", ["reference", "optimized"])
def test_a_broken_cache_fails_under_either_judge_by_its_tokens_alone(backend, dtype):
    any_logits = replace(TOLERANCES[dtype], relative=math.inf)
    result = check(with_cache(ForgetfulCache, backend, dtype, "demo"), tolerance=any_logits)
    assert result.equal_tokens < result.required_equal_tokens
    assert not result.passed


@pytest.mark.parametrize("backend", ["reference", "optimized"])
def test_more_smooth_is_checked_without_smoothing_and_the_judge_says_so(backend, reference, optimized):
    result = check({"reference": reference, "optimized": optimized}[backend], more_smooth=True)
    assert result.passed
    assert "without more_smooth" in result.judge


def test_the_twin_shares_every_weight(optimized):
    twin = reference_twin(optimized)
    assert twin.backend == "reference"
    assert all(twin.modules()[part] is module for part, module in optimized.modules().items())


class DrawsFromFlippedLogits:
    """Noise that reads the logits of one step from the wrong end, and those of all others as they are."""

    def __init__(self, noise, step: int) -> None:
        self._noise, self._step = noise, step

    def tokens(self, logits, step, *, one_by_one=False):
        return self._noise.tokens(logits.flip(-1) if step == self._step else logits, step, one_by_one=one_by_one)


def drawing_wrongly(dtype: torch.dtype, step: int) -> Sampler:
    """An optimized sampler whose logits are right and whose tokens of one step are not."""
    sampler = load_sampler("demo/var", weights="random:0", backend="optimized", dtype=dtype)
    right = sampler.sample

    def wrong(*arguments, noise, **options):
        return right(*arguments, noise=DrawsFromFlippedLogits(noise, step), **options)

    sampler.sample = wrong
    return sampler


def test_equal_logits_do_not_excuse_other_tokens():
    result = check(drawing_wrongly(torch.float32, step=2))
    assert result.max_abs_diff <= result.tolerance
    assert result.equal_tokens < result.required_equal_tokens
    assert not result.passed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_tokens_are_compared_in_place_on_the_path_of_the_reference(dtype):
    """A sampler that draws one wrong token, in the first step, loses one token and not all that follow from it."""
    sampler = load_sampler("demo/var", weights="random:0", backend="optimized", dtype=dtype)
    assert check(sampler, batch=1).equal_tokens == 1.0
    assert check(drawing_wrongly(dtype, step=0), batch=1).equal_tokens == 1 - 1 / sampler.spec.tokens


def test_half_precisions_have_looser_tolerances():
    order = [TOLERANCES[dtype] for dtype in (torch.float32, torch.float16, torch.bfloat16)]
    assert [t.relative for t in order] == sorted(t.relative for t in order)
    assert [t.equal_tokens for t in order] == sorted((t.equal_tokens for t in order), reverse=True)
    assert all(0 < t.equal_tokens < 1 for t in order)


HALVES = list(product(demo_models(), ("reference", "optimized"), (torch.bfloat16, torch.float16), ("demo", "random:0")))
BY_DEFAULT = {("optimized", torch.bfloat16, "demo")}
"""The type of GPUs, with the weights that users have and the backend that they run; VAR in all combinations."""


@pytest.mark.parametrize(
    ("name", "backend", "dtype", "weights"),
    [
        pytest.param(
            *case,
            marks=[pytest.mark.slow] * (case[1:] not in BY_DEFAULT and case[0] != "demo/var"),
            id="-".join(map(str, case)),
        )
        for case in HALVES
    ],
)
def test_half_precision_passes_its_own_tolerance(name, backend, dtype, weights):
    """Unfused attention rounds elsewhere: a right implementation whose numbers differ from its judge's."""
    sampler = load_sampler(name, weights=weights, backend=backend, dtype=dtype)
    fused = sampler.sample

    def unfused(*arguments, **options):
        with sdpa_kernel(SDPBackend.MATH):
            return fused(*arguments, **options)

    sampler.sample = unfused
    # Steps that denoise a latent are alike.
    fewer = {"num_steps": 4} if sampler.spec.latent_dim else {}
    result = check(sampler, policy=None, cfg=4.0, **fewer)
    assert result.passed
    assert result.max_abs_diff > 0


def comparison(logits, tokens=None, other_tokens=None):
    """A judge and a sampler with equal logits."""
    tokens = [values.argmax(dim=-1) for values in logits] if tokens is None else tokens
    other_tokens = tokens if other_tokens is None else other_tokens
    return Comparison(judge="judge", expected=logits, actual=logits, expected_tokens=tokens, actual_tokens=other_tokens)


def test_one_token_may_always_differ():
    """64 tokens; one lies on a bound of its distribution."""
    logits, tokens = [torch.zeros(1, 64, 8)], torch.zeros(1, 64, dtype=torch.int64)

    def verdict(different):
        others = tokens.clone()
        others[:, :different] = 1
        return comparison(logits, [tokens], [others]).verdict(TOLERANCES[torch.float32])

    assert verdict(1).passed
    assert not verdict(2).passed


def test_tokens_that_are_never_drawn_do_not_loosen_the_tolerance():
    logits = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(0))
    filled = torch.cat((logits, torch.full((1, 4, 1), -100.0)), dim=2)

    def tolerance(values):
        return comparison([values]).verdict(TOLERANCES[torch.float32]).tolerance

    assert tolerance(filled) == tolerance(logits)


def test_equal_tokens_are_counted_over_all_steps():
    one = [torch.tensor([[1], [2]]), torch.tensor([[1, 2, 3], [4, 5, 6]])]
    other = [torch.tensor([[1], [0]]), torch.tensor([[1, 2, 0], [4, 5, 6]])]
    logits = [torch.zeros(2, 1, 8), torch.zeros(2, 3, 8)]
    assert comparison(logits, one, other).verdict(TOLERANCES[torch.float32]).equal_tokens == 6 / 8


@pytest.mark.parametrize(
    ("count", "classes", "labels"),
    [(4, 1000, [0, 250, 500, 750]), (3, 3, [0, 1, 2]), (5, 3, [0, 1, 2, 0, 1])],
)
def test_labels_are_spread_over_the_classes(count, classes, labels):
    assert spread_labels(count, classes) == labels
