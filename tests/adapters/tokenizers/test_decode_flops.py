"""FLOPs of decoding by formula: equal to those that torch counts while it runs."""

from __future__ import annotations

import pytest

from arvbench.adapters.common.meta import on_meta
from arvbench.adapters.loading import known_specs
from arvbench.adapters.tokenizers.tokenizer import Tokenizer

KINDS = {(spec.sampler.tokenizer_class, spec.tokenizer): name for name, spec in known_specs()}
"""Tokenizer and configuration -> the last model that has it."""


def sides(config) -> list[tuple[int, int]]:
    """Sizes of a map of tokens; one decoder walks along all tokens of an image, never fewer."""
    all_queries = getattr(config, "num_all_queries", None)
    return [(1, all_queries)] if all_queries else [(4, 4), (3, 5)]


@pytest.mark.parametrize(
    ("kind", "config", "side"),
    [
        # D-AR's official decoder takes seconds, and that of demo/dar has the same parts.
        pytest.param(*key, side, id=f"{name}-side{number}", marks=[pytest.mark.slow] * name.startswith("dar-"))
        for key, name in KINDS.items()
        for number, side in enumerate(sides(key[1]))
    ],
)
def test_the_formula_of_every_tokenizer_equals_the_count(kind, config, side):
    twin = on_meta(lambda: kind(config))
    assert type(twin).decode_flops is not Tokenizer.decode_flops
    assert twin.decode_flops(side) == Tokenizer.decode_flops(twin, side) > 0
