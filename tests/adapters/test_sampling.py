from __future__ import annotations

import pytest
import torch

from arvbench.adapters.sampling import (
    PerImageNoise,
    ReplayTokens,
    UpstreamNoise,
    cfg_mix,
    filter_logits,
)
from arvbench.errors import UserError
from arvbench.kernels.counter import mix64, mix64_int


def test_guidance_extrapolates_from_the_unconditional_rows():
    cond, uncond = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[0.5, 4.0]]])
    torch.testing.assert_close(cfg_mix(torch.cat((cond, uncond)), 0.0), cond)
    torch.testing.assert_close(cfg_mix(torch.cat((cond, uncond)), 1.5), 2.5 * cond - 1.5 * uncond)


def test_all_ties_at_the_kth_value_survive_top_k():
    logits = torch.tensor([[[3.0, 1.0, 2.0, 2.0, 0.0]]])
    assert filter_logits(logits, 2, None).isfinite().tolist() == [[[True, False, True, True, False]]]


def test_filtering_leaves_its_input_alone():
    logits = torch.randn(2, 3, 8)
    before = logits.clone()
    filter_logits(logits, 2, 0.5)
    assert torch.equal(logits, before)


def test_the_nucleus_is_taken_from_the_tokens_of_top_k():
    # Of all four, 0.5 + 0.25 reach 0.7; of the best two, 0.5 / 0.75 = 0.67 do not, and both stay.
    logits = torch.tensor([[[0.5, 0.25, 0.15, 0.1]]]).log()
    assert filter_logits(logits, None, 0.7).isfinite().sum() == 2
    assert filter_logits(logits, 2, 0.6).isfinite().sum() == 1
    assert filter_logits(logits, 2, 0.7).isfinite().sum() == 2


@pytest.mark.parametrize("top_p", [1e-6, 1e-9])  # 1 - 1e-9 is 1 in fp32: every sum of probabilities is at most that
def test_the_most_likely_token_survives_any_nucleus(top_p):
    logits = torch.randn(4, 5, 16)
    kept = filter_logits(logits, None, top_p)
    assert torch.equal(kept.argmax(-1), logits.argmax(-1))
    assert (kept.isfinite().sum(-1) == 1).all()


def test_official_noise_draws_like_one_generator_per_call():
    logits = torch.randn(2, 3, 8)
    generator = torch.Generator().manual_seed(5)
    labels = torch.multinomial(torch.full((1, 10), 0.1), 2, replacement=True, generator=generator).view(-1)
    ids = torch.multinomial(logits.softmax(-1).view(-1, 8), 1, generator=generator).view(2, 3)
    noise = UpstreamNoise(5)
    assert torch.equal(noise.labels(2, 10), labels)
    assert torch.equal(noise.tokens(logits, 0), ids)


def python_splitmix64(x: int) -> int:
    """The published finaliser on Python integers."""
    mask = 2**64 - 1
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


@pytest.mark.parametrize("value", [0, 1, 2**31, 2**62 + 12345, 2**63, 2**64 - 1])
def test_the_hash_is_splitmix64(value):
    signed = value - 2**64 if value >= 2**63 else value
    assert int(mix64(torch.tensor([signed]))) % 2**64 == python_splitmix64(value)


def test_an_image_draws_the_same_tokens_in_any_batch_and_order():
    logits = torch.randn(6, 5, 32)
    together = PerImageNoise(3, range(6)).tokens(logits, step=2)
    for order in ([4], [5, 0, 3], [2, 1]):
        assert torch.equal(PerImageNoise(3, order).tokens(logits[order], step=2), together[order])


def test_images_steps_and_runs_draw_different_tokens():
    logits = torch.zeros(1, 200, 1000)
    first = PerImageNoise(0, [0]).tokens(logits, step=0)
    for other in (
        PerImageNoise(0, [0]).tokens(logits, step=1),
        PerImageNoise(0, [1]).tokens(logits, step=0),
        PerImageNoise(1, [0]).tokens(logits, step=0),
    ):
        assert (first == other).float().mean() < 0.05


def test_drawn_tokens_follow_the_distribution():
    probs = torch.tensor([0.5, 0.3, 0.15, 0.05, 0.0])
    drawn = PerImageNoise(7, range(50)).tokens(probs.log().expand(50, 400, 5), step=0)
    counts = drawn.flatten().bincount(minlength=5)
    assert counts[4] == 0
    expected = probs[:4] * 20_000
    chi_squared = ((counts[:4] - expected) ** 2 / expected).sum()
    assert chi_squared < 16.3  # 99.9 % quantile at 3 degrees of freedom


def test_a_token_with_probability_zero_is_never_drawn_at_the_end_of_the_range():
    logits = torch.full((1, 4000, 6), -torch.inf)
    logits[..., 2] = 0.0
    assert (PerImageNoise(0, [0]).tokens(logits, step=0) == 2).all()


def test_exponential_noise_has_mean_and_variance_one():
    e = PerImageNoise(1, range(20)).exponential(torch.empty(20, 50, 100), step=0)
    assert (e > 0).all()
    assert abs(e.mean() - 1) < 0.02
    assert abs(e.var() - 1) < 0.05


def test_labels_belong_to_the_image():
    assert torch.equal(PerImageNoise(0, [3, 1]).labels(2, 10), PerImageNoise(0, range(4)).labels(4, 10)[[3, 1]])


def test_noise_for_another_batch_is_refused():
    with pytest.raises(UserError, match="made for 2 images"):
        PerImageNoise(0, [0, 1]).tokens(torch.zeros(3, 1, 4), step=0)
    with pytest.raises(UserError, match="at least one"):
        PerImageNoise(0, [])


def test_replayed_tokens_ignore_the_logits_and_cannot_be_smoothed():
    noise = ReplayTokens([torch.tensor([[1, 2]])])
    assert noise.tokens(torch.zeros(1, 2, 5), step=0).tolist() == [[1, 2]]
    with pytest.raises(UserError, match="more_smooth"):
        noise.exponential(torch.zeros(1, 2, 5), step=0)


@pytest.mark.parametrize(
    ("entries", "top_k"),
    [(24, 12), (130, 64), (1000, 333), (4096, 900), (256, 256), (16, 1), (256, None), (1000, None)],
)
@pytest.mark.parametrize("top_p", [1e-9, 0.5, 0.96, 1.0])
@pytest.mark.parametrize("grid", [None, 4], ids=["distinct", "tied"])
def test_a_sort_of_logits_filters_bit_by_bit_as_a_sort_of_all(entries, top_k, top_p, grid):
    logits = 3 * torch.randn(2, 20, entries, generator=torch.Generator().manual_seed(entries))
    if grid is not None:
        logits = (grid * logits).round() / grid
    expected = filter_logits(logits, top_k, top_p)
    assert torch.equal(filter_logits(logits, top_k, top_p, sort_all=False), expected)


@pytest.mark.parametrize("top_k", [37, None])
def test_a_sort_of_logits_keeps_rows_without_a_softmax(top_k):
    logits = torch.randn(2, 4, 256, generator=torch.Generator().manual_seed(0))
    logits[0, 0, 3], logits[1, 2, 5] = torch.nan, torch.inf
    expected = filter_logits(logits, top_k, 0.9)
    filtered = filter_logits(logits, top_k, 0.9, sort_all=False)
    torch.testing.assert_close(filtered, expected, rtol=0, atol=0, equal_nan=True)


def test_the_key_of_a_stream_is_the_hash_of_the_tensor_arithmetic():
    for number in (0, 1, -1, 2**62, 2**64 - 1, -(2**63), 2**70 + 3):
        wrapped = (number + 2**63) % 2**64 - 2**63
        assert mix64_int(number) == int(mix64(torch.tensor(wrapped + 1)))
