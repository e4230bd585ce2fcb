from __future__ import annotations

import pytest
import torch

from arvbench.adapters.flexvar.sampler import FlexVarSettings
from arvbench.adapters.flexvar.scale_lists import MAX_SIDE, OFFICIAL_SCALES, parse_scales, random_scales
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


def test_scales_may_repeat_and_shrink_as_the_official_code_lets_them():
    assert parse_scales((1, 1, 4, 2, 5), first=(1, 1)) == ((1, 1), (1, 1), (4, 4), (2, 2), (5, 5))


@pytest.mark.parametrize("scale", [True, 2.0, (2, True), (2, 2.0), (2,), (2, 3, 4), "2", None, ((1, 2), 3)])
def test_only_whole_numbers_and_pairs_of_them_are_scales(scale):
    with pytest.raises(UserError, match="is not a size: give whole numbers"):
        parse_scales((1, scale, 4), first=(1, 1))


@pytest.mark.parametrize("scale", [True, 2.0, (2, True), (2, 2.0)])
def test_settings_do_not_turn_other_things_into_whole_numbers(scale):
    with pytest.raises(ValueError, match="scales"):
        FlexVarSettings(cfg=1, scales=(1, scale, 4))


def test_sides_have_a_limit():
    assert parse_scales((1, MAX_SIDE), first=(1, 1))[-1] == (MAX_SIDE, MAX_SIDE)
    for scales in ((1, MAX_SIDE + 1), (1, (2, MAX_SIDE + 1)), f"1_{MAX_SIDE + 1}x2", (1, 10**30), "1_999999999"):
        with pytest.raises(UserError, match="is too large: sides are at most 256"):
            parse_scales(scales, first=(1, 1))


@pytest.mark.parametrize("text", ["1_" + "9" * 5000, "9" * 5000, "1_\N{ARABIC-INDIC DIGIT TWO}"])
def test_text_other_than_a_list_of_sides_is_refused(text):
    with pytest.raises(UserError, match="write sides as 1_2_4_8"):
        parse_scales(text, first=(1, 1))


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
