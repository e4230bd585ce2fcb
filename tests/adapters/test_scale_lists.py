from __future__ import annotations

import pytest
import torch

from arvbench.adapters.common.scale_lists import OFFICIAL_SCALES, parse_scales, random_scales
from arvbench.errors import UserError

CONFIGURED = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)


def draws(configured, count=2000):
    generator = torch.Generator().manual_seed(0)
    return [random_scales(configured, generator) for _ in range(count)]


def test_text_and_lists_say_the_same():
    expected = ((1, 1), (2, 2), (2, 3), (8, 12))
    for scales in ("1_2_2x3_8x12", (1, 2, (2, 3), (8, 12)), ((1, 1), (2, 2), (2, 3), (8, 12))):
        assert parse_scales(scales, first=(1, 1)) == expected


def test_the_first_scale_is_the_models_own():
    assert parse_scales("2x1_3", first=(2, 1)) == ((2, 1), (3, 3))
    with pytest.raises(UserError, match="must start with 2x1, where the model starts; got 1"):
        parse_scales("1_3", first=(2, 1))


def test_official_lists_have_as_many_steps_as_their_names_say():
    assert {name: len(scales) for name, scales in OFFICIAL_SCALES.items() if name != "512px"} == {
        f"{steps}-steps": steps for steps in (6, 8, 9, 10, 11, 12, 13, 14)
    }
    assert {scales[-1] for name, scales in OFFICIAL_SCALES.items() if name != "512px"} == {16}
    assert OFFICIAL_SCALES["10-steps"] == CONFIGURED


@pytest.mark.parametrize("configured", [CONFIGURED, (1, 2, 3, 4, 6, 8)])
def test_training_lists_rise_from_the_first_two_scales_to_the_last_within_the_budget_of_tokens(configured):
    budget = sum(pn * pn for pn in configured)
    for scales in draws(configured):
        assert scales[:2] == configured[:2]
        assert scales[-1] == configured[-1]
        assert list(scales) == sorted(set(scales))
        assert len(scales) <= len(configured)
        assert sum(pn * pn for pn in scales) <= budget


def test_training_sees_every_side_and_now_and_then_the_configured_list():
    lists = draws(CONFIGURED)
    assert {pn for scales in lists for pn in scales} == set(range(1, 17))
    assert 0.03 < lists.count(CONFIGURED) / len(lists) < 0.08
    assert min(map(len, lists)) <= 5


def test_the_same_generator_gives_the_same_lists():
    assert draws(CONFIGURED, 20) == draws(CONFIGURED, 20)
    assert len(set(draws(CONFIGURED, 20))) > 10


@pytest.mark.parametrize("configured", [(1, 4), (1, 2, 4)])
def test_short_lists_leave_nothing_to_draw(configured):
    assert set(draws(configured, 50)) == {configured}
