"""ScaleKV's published memory of the cache is a formula; what its caches hold beside it is counted by running them."""

from __future__ import annotations

from pathlib import Path

import pytest
from scalekv_table import MODELS, PUBLISHED, count, formula_tokens, mib, table

DOCS = Path(__file__).parents[3] / "docs" / "memory.md"


@pytest.mark.parametrize(("name", "policy"), PUBLISHED)
def test_the_formula_gives_the_published_number_to_the_mib(name, policy):
    assert int(mib(MODELS[name], formula_tokens(policy))) == PUBLISHED[name, policy]


def test_a_full_cache_ends_with_the_last_scale_that_the_published_number_leaves_out():
    held = count("static")
    assert held.live[-2:] == (6425, 10521) and held.read == 10521
    assert mib(MODELS["Infinity-2B"], held.live[-1]) / PUBLISHED["Infinity-2B", "static"] == pytest.approx(
        10521 / 6425, rel=1e-4
    )


@pytest.mark.parametrize("budget", [1300, 650, 265])
def test_a_cut_cache_holds_the_budget_between_scales_and_reads_a_whole_scale_more(budget):
    held = count(f"scalekv:{budget}")
    assert held.live[-2:] == (budget, budget)
    assert max(held.live) == budget
    assert held.read == budget + 64 * 64


def test_one_image_explains_what_a_user_measured():
    # ScaleKV issue 5: 8,579 MB above the weights at batch 1, where 38,550 MB were published for batch 8.
    one_image_bytes = mib(MODELS["Infinity-2B"], count("static").live[-1]) * 2**20 / 8
    assert one_image_bytes == pytest.approx(8.274e9, rel=1e-3)
    assert one_image_bytes < 8.579e9


def test_the_docs_have_the_table():
    assert table() in DOCS.read_text(), "renew it with `python tests/support/scalekv_table.py`"
