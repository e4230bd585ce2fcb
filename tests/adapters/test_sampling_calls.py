"""Promises of a sampling call that hold for every family with a KV cache: reuse, batches, order."""

from __future__ import annotations

import pytest
import torch
from sampling_calls import LABELS, draw, same_tokens
from tiny_models import TOKEN_GRID_FAMILIES, tiny_token_grid, tiny_var

from arvbench.adapters.loading import build_sampler
from arvbench.adapters.sampling import PerImageNoise
from arvbench.errors import ContractError

SPECS = {
    "var": tiny_var(),
    "var-shared-adaln": tiny_var(shared_aln=True),
    **{family: tiny_token_grid(family) for family in sorted(TOKEN_GRID_FAMILIES)},
}


@pytest.fixture(params=SPECS)
def sampler(request):
    return build_sampler(SPECS[request.param], weights="random:1")


def test_a_cache_can_be_used_again(sampler):
    cache = sampler.make_cache("static", sampler.spec.settings, batch=len(LABELS))
    first, second = draw(sampler, cache=cache), draw(sampler, cache=cache)
    assert same_tokens(first, second)
    assert torch.equal(first.images, second.images)


def test_a_cache_of_another_batch_is_refused(sampler):
    cache = sampler.make_cache("static", sampler.spec.settings, batch=1)
    with pytest.raises(ContractError, match="needs a cache"):
        draw(sampler, cache=cache)


def test_an_image_depends_neither_on_its_batch_nor_on_the_order(sampler):
    labels = [i % 5 for i in range(32)]
    together = draw(sampler, labels)
    for size in (1, 7):
        # The last part comes first.
        for start in reversed(range(0, 32, size)):
            part = labels[start : start + size]
            noise = PerImageNoise(0, range(start, start + len(part)))
            samples = sampler.sample(part, sampler.spec.settings, noise=noise)
            assert same_tokens(samples.tokens, [theirs[start : start + size] for theirs in together.tokens])
            # Convolutions may round a pixel differently with another batch, by one step of 255.
            difference = samples.images.int() - together.images[start : start + size].int()
            assert difference.abs().max() <= 1
