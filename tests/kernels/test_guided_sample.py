"""Guided sampling: the reference is what the models do, draws have the right distribution, bad operands are refused."""

from __future__ import annotations

import pytest
import torch
from interpreted import run_interpreted

from arvbench.adapters.sampling import PerImageNoise, cfg_mix, filter_logits, interpolate, nucleus
from arvbench.errors import ContractError
from arvbench.kernels.counter import image_keys
from arvbench.kernels.guided_sample.reference import guided_sample
from arvbench.kernels.guided_sample.rule import Counter, SampleRule, unsupported
from arvbench.kernels.guided_sample.spec import SAMPLE

B, TOKENS, V = 3, 5, 200
NOISE = PerImageNoise(7, range(10, 10 + B))
COUNTER = Counter(NOISE.token_keys(torch.device("cpu")), 4)


def logits(*, levels: int = 0) -> torch.Tensor:
    drawn = 3 * torch.randn(2 * B, TOKENS, V, generator=torch.Generator().manual_seed(0))
    return (drawn * levels).round() / levels if levels else drawn


def strength(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize("levels", [0, 2], ids=["distinct", "tied"])
@pytest.mark.parametrize("top_k", [None, 1, 30, V])
@pytest.mark.parametrize("top_p", [None, 0.05, 0.9, 1.0])
def test_the_reference_draws_the_tokens_of_the_next_scale_models(levels, top_k, top_p):
    x, t = logits(levels=levels), 1.5 * 3 / 9
    filtered = filter_logits(cfg_mix(x, t), top_k, top_p)
    rule = SampleRule(top_k=top_k or 0, top_p=1.0 if top_p is None else top_p)
    draw = guided_sample(x, strength(t), COUNTER, rule)
    expected = NOISE.tokens(filtered, COUNTER.step)
    assert torch.equal(draw.ids_Bl, expected)
    probability = filtered.softmax(-1).gather(-1, expected.unsqueeze(-1)).squeeze(-1)
    assert torch.equal(draw.probability_Bl, probability)
    assert not draw.failed_Bl.any()
    assert torch.equal(guided_sample(x, strength(t), None, rule).ids_Bl, filtered.argmax(-1))


@pytest.mark.parametrize("levels", [0, 2], ids=["distinct", "tied"])
@pytest.mark.parametrize("top_k", [None, 30])
@pytest.mark.parametrize("top_p", [None, 0.9])
def test_the_reference_draws_the_tokens_of_the_token_grid_models(levels, top_k, top_p):
    x, cfg, temperature = logits(levels=levels), 1.75, 0.7
    filtered = filter_logits(interpolate(x, cfg) / temperature, top_k, None)
    if top_p is not None:
        filtered = nucleus(filtered, top_p)
    rule = SampleRule(
        mix="interpolate", temperature=temperature, top_k=top_k or 0, top_p=top_p or 1.0, nucleus="reached"
    )
    ids = guided_sample(x, strength(cfg), COUNTER, rule).ids_Bl
    assert torch.equal(ids, NOISE.tokens(filtered, COUNTER.step))
    alone = guided_sample(x[:B], None, COUNTER, rule).ids_Bl
    assert not torch.equal(alone, ids)


def test_half_precision_logits_are_widened_before_any_arithmetic():
    x = logits().bfloat16()
    rule = SampleRule(top_k=50, top_p=0.9)
    narrow, wide = (guided_sample(y, strength(1.1), COUNTER, rule) for y in (x, x.float()))
    assert torch.equal(narrow.ids_Bl, wide.ids_Bl)
    assert torch.equal(narrow.probability_Bl, wide.probability_Bl)


def test_rows_without_a_softmax_give_an_id_that_may_be_looked_up_and_a_flag():
    x = logits()
    x[0, 1, 3], x[B, 2, 4], x[B + 1, 0] = torch.nan, torch.inf, -torch.inf
    table = torch.arange(2.0 * V).view(V, 2)
    draw = guided_sample(x, strength(0.5), COUNTER, SampleRule(top_k=9, top_p=0.9), table)
    assert draw.failed_Bl.nonzero().tolist() == [[0, 1], [1, 0]]  # at -inf a token of row (0, 2) cannot be drawn
    assert draw.probability_Bl[draw.failed_Bl].eq(0).all()
    assert draw.ids_Bl.lt(V).all()
    assert torch.equal(draw.codes_BlK, table[draw.ids_Bl])


CRITICAL = 24.3
"""Chi-square of 7 degrees of freedom that chance exceeds once in a thousand times."""


@pytest.mark.parametrize("greatest", [1, 8], ids=["even", "steep"])
def test_a_million_draws_have_the_distribution_of_the_logits(greatest):
    images, tokens, entries, guidance = 100, 1000, 8, 0.5
    x = torch.linspace(0, greatest, 2 * entries).view(2, 1, entries).flip(0)
    rows = x.repeat_interleave(images, 0).expand(-1, tokens, -1)
    counts = torch.zeros(entries)
    for step in range(10):
        noise = Counter(image_keys(1, 2, torch.arange(images)), step)
        ids = guided_sample(rows, strength(guidance), noise, SampleRule()).ids_Bl
        counts += ids.flatten().bincount(minlength=entries)
    expected = 1e6 * cfg_mix(x, guidance).double().softmax(-1).flatten()
    assert counts.sum() == 1e6
    assert float(((counts - expected) ** 2 / expected).sum()) < CRITICAL


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": 0.0}, "temperature must be a positive fp32 number"),
        ({"temperature": 1e-39}, "temperature must be a positive fp32 number"),
        ({"temperature": float("nan")}, "temperature must be a positive fp32 number"),
        ({"top_k": -1}, "top_k must be 0 or more"),
        ({"top_p": 1.5}, r"top_p must be in 0\.\.1"),
    ],
)
def test_a_rule_out_of_range_is_refused(values, message):
    with pytest.raises(ContractError, match=message):
        SampleRule(**values)


@pytest.mark.parametrize(
    ("operands", "reason"),
    [
        (lambda: (torch.zeros(2, 1, 16385), None), "takes up to 16384 entries, got 16385"),
        (lambda: (torch.zeros(2, 1, 8).double(), None), "takes float32, bfloat16 and float16, got torch.float64"),
        (lambda: (torch.zeros(2, 8, 4).mT, None), "must be adjacent in memory"),
        (lambda: (torch.zeros(2, 1, 8), torch.zeros(8, 2).long()), "got torch.int64"),
        (lambda: (torch.zeros(2, 1, 8), torch.zeros(8, 2)), None),
    ],
)
def test_operands_that_the_kernel_cannot_take_have_a_reason(operands, reason):
    x, table = operands()
    found = unsupported(x, None, None, SampleRule(), table)
    assert found is None if reason is None else reason in found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits_RlV": torch.zeros(4, 8)}, r"logits must be \(rows, tokens, entries\)"),
        ({"logits_RlV": torch.zeros(4, 0, 8)}, "none of them 0"),
        ({"logits_RlV": torch.zeros(3, 1, 8)}, "even number of rows"),
        ({"strength": torch.tensor(1.0)}, "0-dimensional strength in float64"),
        ({"rule": SampleRule(top_k=9)}, "top_k 9 is larger than the 8 entries"),
        ({"noise": torch.zeros(4, 1)}, r"uniform numbers must be \(2, 1\) float64"),
        ({"noise": Counter(torch.zeros(4, dtype=torch.int64), 0)}, r"keys must be \(2,\) int64"),
        ({"table_VK": torch.zeros(7, 2)}, "the table must have 8 rows"),
        ({"table_VK": torch.zeros(8, 2, device="meta")}, "all operands must be on cpu"),
        ({"logits_RlV": torch.zeros(4, 1, 8).double()}, "takes float32, bfloat16 and float16"),
    ],
)
def test_the_wrapper_refuses_bad_operands(change, message):
    pytest.importorskip("triton", reason="needs triton")
    operands = {
        "logits_RlV": torch.zeros(4, 1, 8),
        "strength": strength(1.0),
        "noise": None,
        "rule": SampleRule(),
        "table_VK": None,
    }
    with pytest.raises(ContractError, match=message):
        SAMPLE.implementations["triton"](**{**operands, **change})


def test_workloads_hold_the_vocabularies_of_the_official_models():
    assert {w.shape["V"] for w in SAMPLE.workloads.values()} >= {4096, 8912, 16384}
    assert SAMPLE.flops(SAMPLE.workloads["no-guidance"].shape) == 2 * 100 * 3
    assert SAMPLE.bytes_moved(SAMPLE.workloads["var-one-image"].shape, 2) == 2 * (2 * 4096 + 2 * 32)


def test_the_interpreted_kernel_draws_the_numbers_of_the_noise_and_survives_extreme_temperatures(programs):
    run_interpreted(programs, INTERPRETED)


INTERPRETED = """
import torch
from arvbench.adapters.sampling import PerImageNoise
from arvbench.kernels.guided_sample import reference, triton
from arvbench.kernels.guided_sample.rule import Counter, SampleRule

noise = PerImageNoise(2**63 + 5, [0, 2**40, -3])
# Of 4,096 equally likely tokens, the one drawn shows 12 bits of its random number.
x = torch.zeros(3, 1, 4096)
draw = triton.guided_sample(x, None, Counter(noise.token_keys(torch.device("cpu")), 11), SampleRule())
assert torch.equal(draw.ids_Bl, noise.tokens(x, 11))
g = torch.Generator().manual_seed(0)
for temperature in (1e-5, 1.2e-38, 1e5):
    y = 9 * torch.rand(1, 1, 300, generator=g)
    u, rule = torch.rand(1, 1, generator=g, dtype=torch.float64), SampleRule(temperature=temperature, top_p=0.985)
    ours, theirs = triton.guided_sample(y, None, u, rule), reference.guided_sample(y, None, u, rule)
    assert torch.equal(ours.ids_Bl, theirs.ids_Bl)
    assert torch.equal(ours.failed_Bl, theirs.failed_Bl)
    assert bool(ours.failed_Bl) == (temperature == 1.2e-38)
"""
