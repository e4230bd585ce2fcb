"""Next-scale models hand the mixer, the canvas and teacher-forced attention to kernels, and keep no mask for them."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from interpreted import run_interpreted
from sampling_calls import same_tokens
from tape import tensors_in
from torch.utils._python_dispatch import TorchDispatchMode

from arvbench.adapters.call import SilentObserver
from arvbench.adapters.loading import load_sampler
from arvbench.adapters.sampling import PerImageNoise
from arvbench.kernels import KERNELS
from arvbench.kernels.block_sparse_attention.reference import Scales
from arvbench.kernels.dispatch import select

RESIDUAL = ["var", "mvar", "hmar"]
FAMILIES = [*RESIDUAL, "flexvar"]
LABELS = [3, 7]


def load(family, *operations):
    """Return the demo model, `operations` counted and under the name of a kernel, and the operands of their calls."""
    sampler = load_sampler(f"demo/{family}", weights="demo", backend="optimized")
    kernels, calls = select("optimized", "cpu"), []
    for operation in operations:
        reference = KERNELS[operation].implementations["torch"]

        def counted(*operands, reference=reference):
            calls.append(operands)
            return reference(*operands)

        kernels = kernels.replacing(operation, counted, name="triton")
    if operations:
        sampler.use_kernels(kernels)
    return sampler, calls


def draw(sampler, observer=None, **changes):
    settings = sampler.spec.settings.replace(**changes)
    return sampler.sample(LABELS, settings, noise=PerImageNoise(1, [5, 6]), observer=observer)


def forced(sampler):
    """Tokens that the model's own call drew, and its teacher-forced logits of them."""
    tokens = draw(sampler).tokens
    return tokens, sampler.teacher_forced(tokens, LABELS)


class States(SilentObserver):
    """Keeps the state of every step, and a copy of it."""

    def __init__(self):
        self.states, self.copies = [], []

    def step_end(self, step, output):
        self.states.append(output.state)
        self.copies.append(output.state.clone())


@pytest.mark.parametrize("family", RESIDUAL)
def test_the_canvas_takes_ids_through_the_kernel_and_leaves_earlier_states(family):
    plain, (sampler, calls) = load(family)[0], load(family, "next_scale_input")
    heard, expected = States(), States()
    samples, reference = draw(sampler, heard), draw(plain, expected)
    scales = sampler.sides(sampler.spec.settings)
    assert len(calls) == len(scales)
    assert [operands[-1].side for operands in calls] == list(scales)
    assert [operands[-1].next_side for operands in calls] == [*scales[1:], None]
    assert same_tokens(samples, reference)
    assert torch.equal(samples.images, reference.images)
    assert all(map(torch.equal, heard.states, heard.copies))
    assert all(map(torch.equal, heard.states, expected.states))


def test_flexvar_has_another_rule_and_calls_no_kernel_for_it():
    """Its next scale reads the codes of the last one alone: nothing is blended, added up or averaged."""
    sampler, calls = load("flexvar", "next_scale_input")
    draw(sampler)
    assert not calls


def test_mixed_codes_are_placed_by_operators():
    plain, (sampler, calls) = load("var")[0], load("var", "next_scale_input")
    assert torch.equal(draw(sampler, more_smooth=True).images, draw(plain, more_smooth=True).images)
    assert not calls


@pytest.mark.parametrize("policy", ["state", "history"])
def test_the_mixer_calls_scan_and_norm_once_per_layer_and_step(policy):
    plain, (sampler, calls) = load("mvar")[0], load("mvar", "ssd_scan", "rms_norm_gated")
    settings = sampler.spec.settings
    samples, expected = (
        model.sample(
            LABELS,
            settings,
            noise=PerImageNoise(1, [5, 6]),
            cache=model.make_cache(policy, settings, batch=2),
        )
        for model in (sampler, plain)
    )
    assert len(calls) == 2 * sampler.spec.transformer.depth * len(sampler.schedule(settings, batch=2))
    assert torch.equal(samples.images, expected.images)


def test_the_scan_continues_the_states_of_the_cache_where_they_lie():
    sampler, calls = load("mvar", "ssd_scan")
    settings = sampler.spec.settings
    cache = sampler.make_cache("state", settings, batch=2)
    sampler.sample(LABELS, settings, noise=PerImageNoise(1, [5, 6]), cache=cache)
    own = {state.data_ptr() for layer in range(sampler.spec.transformer.depth) for state in cache.state(layer)}
    assert {state.data_ptr() for operands in calls for state in operands[3:]} == own


@pytest.mark.parametrize("family", FAMILIES)
def test_teacher_forcing_hands_scales_to_the_kernel_and_equals_the_masked_pass(family):
    plain, (sampler, calls) = load(family)[0], load(family, "block_sparse_attention")
    (tokens, logits), (same, expected) = forced(sampler), forced(plain)
    assert all(map(torch.equal, tokens, same))
    assert len(calls) == sampler.spec.transformer.depth
    sides = sampler.sides(sampler.spec.settings)
    assert {operands[3].causal for operands in calls} == {family in ("var", "flexvar")}
    assert {operands[3].tokens for operands in calls} == {tuple(h * w for h, w in sides)}
    if family == "mvar":
        # Operators attend scale by scale, the kernel to all scales at once: sums have another order.
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    else:
        assert torch.equal(logits, expected)


def test_hmar_with_a_cache_sees_the_coarser_scales_and_refines_its_own():
    sampler, calls = load("hmar", "block_sparse_attention")
    settings = sampler.spec.settings.replace(mask_schedule="none", kv_cache=True)
    tokens = draw(sampler).tokens
    plain = load("hmar")[0]
    logits = sampler.teacher_forced(tokens, LABELS, settings=settings)
    assert {operands[3].causal for operands in calls} == {True}
    assert torch.equal(logits, plain.teacher_forced(tokens, LABELS, settings=settings))
    calls.clear()
    positions_n = torch.tensor([0, 5, 40])
    masked = sampler.masked_logits(tokens, LABELS, positions_n)
    assert {operands[3].causal for operands in calls} == {False}
    assert torch.equal(masked, plain.masked_logits(tokens, LABELS, positions_n))


@pytest.mark.parametrize("family", FAMILIES)
def test_training_attends_by_the_kernel_and_does_all_else_by_references(family):
    plain, (sampler, calls) = load(family)[0], load(family, *KERNELS)
    tokens = draw(plain).tokens
    calls.clear()
    losses = []
    for model in (sampler, plain):
        losses.append(model.loss(tokens, torch.tensor(LABELS), generator=torch.Generator().manual_seed(0)))
        losses[-1].backward()
    passes = 2 if family == "hmar" else 1
    canvas = {"flexvar": 0, "hmar": 2}.get(family, 1) * len(tokens)
    attended = [operands for operands in calls if isinstance(operands[3], Scales)]
    assert len(attended) == passes * sampler.spec.transformer.depth
    # Tokens become codes without a gradient, by the kernel too.
    assert len(calls) == len(attended) + canvas
    torch.testing.assert_close(losses[0], losses[1], atol=1e-6, rtol=1e-6)
    for ours, theirs in zip(sampler.transformer.parameters(), plain.transformer.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-4)


def by_scale(q_RHLD, k_RHLD, v_RHLD, scales, softmax_scale):
    """Attend without a mask, as the kernel does."""
    outs = []
    for begin, end in pairwise(scales.offsets):
        first = 0 if scales.causal else begin
        operands = (q_RHLD[:, :, begin:end], k_RHLD[:, :, first:end], v_RHLD[:, :, first:end])
        outs.append(F.scaled_dot_product_attention(*operands, scale=softmax_scale))
    return torch.cat(outs, dim=2)


class SquareWatch(TorchDispatchMode):
    """Notes operators whose result is L tokens by L tokens."""

    def __init__(self, tokens):
        super().__init__()
        self.tokens, self.found = tokens, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.found += [func.name() for t in tensors_in(result) if tuple(t.shape[-2:]) == (self.tokens, self.tokens)]
        return result


@pytest.mark.parametrize("family", FAMILIES)
def test_no_mask_of_all_tokens_by_all_tokens_is_kept_or_made_for_a_kernel(family):
    plain = load(family)[0]
    tokens = draw(plain).tokens
    total = sum(ids.shape[1] for ids in tokens)
    names = list(plain.transformer.state_dict())
    sampler = load(family)[0]
    sampler.use_kernels(select("optimized", "cpu").replacing("block_sparse_attention", by_scale, name="triton"))
    kept = [*sampler.transformer.parameters(), *sampler.transformer.buffers()]
    assert not [t.shape for t in kept if t.numel() >= total * total and t.shape[-1] == total]
    with SquareWatch(total) as forced, torch.no_grad():
        logits = sampler.teacher_forced(tokens, LABELS)
    with SquareWatch(total) as trained:
        sampler.loss(tokens, torch.tensor(LABELS)).backward()
    assert (forced.found, trained.found) == ([], [])
    torch.testing.assert_close(logits, plain.teacher_forced(tokens, LABELS), atol=1e-4, rtol=1e-4)
    # Files of weights keep their names, and another way of attending makes its own mask.
    state = sampler.transformer.state_dict()
    assert list(plain.transformer.state_dict()) == names
    assert set(state) == set(names)
    assert torch.equal(state["attn_bias_for_masking"], plain.transformer.state_dict()["attn_bias_for_masking"])
    sampler.use_kernels("backend")
    assert torch.equal(sampler.teacher_forced(tokens, LABELS), plain.teacher_forced(tokens, LABELS))


TRAINED_BY_THE_INTERPRETER = """
import torch
from arvbench.adapters.loading import load_sampler
from arvbench.adapters.sampling import PerImageNoise
plain, ours = (load_sampler("demo/FAMILY", weights="demo", backend="optimized") for _ in range(2))
tokens = plain.sample([3], plain.spec.settings, noise=PerImageNoise(0, [0])).tokens
ours.use_kernels("interpreter")
for sampler in (plain, ours):
    sampler.loss(tokens, torch.tensor([3])).backward()
names = [name for name, p in plain.transformer.named_parameters() if p.grad is not None]
for name in names:
    expected, found = (s.transformer.get_parameter(name).grad for s in (plain, ours))
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-3)
assert ours.transformer.attn_bias_for_masking is None and not ours.kernels["block_sparse_attention"].count(";")
print(len(names))
"""


@pytest.mark.slow
@pytest.mark.parametrize("family", ["var", "hmar"])
def test_gradients_of_interpreted_kernels_are_those_of_operators(programs, family):
    printed = run_interpreted(programs, TRAINED_BY_THE_INTERPRETER.replace("FAMILY", family))
    assert int(printed) > 20
