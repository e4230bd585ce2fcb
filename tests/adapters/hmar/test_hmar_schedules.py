"""Schedules of mask refinement: the official ones, and a user's own."""

from __future__ import annotations

import pytest
from tiny_models import MASK_SCHEDULE, tiny_hmar

from arvbench.adapters import MODELS
from arvbench.adapters.hmar.refinement import MASK_SCHEDULES, mask_schedule, masked_counts
from arvbench.adapters.hmar.sampler import HmarSettings
from arvbench.adapters.loading import build_sampler
from arvbench.adapters.sampling import PerImageNoise
from arvbench.errors import UnknownName, UserError

SIDES_256 = MODELS["hmar-d16"].transformer.sides
REST_256 = ((16,), (25,), (36,), (64,), (100,), (169,), (256,))


def test_named_schedules_are_the_official_ones():
    assert MASK_SCHEDULES["sampling-256"] == ((1,), (1, 3), (1, 1, 2, 5), *REST_256)
    assert MASK_SCHEDULES["evaluation-256"] == MASK_SCHEDULES["sampling-256"]
    assert MASK_SCHEDULES["benchmark-256"] == ((1,), (1, 3), (1, 3, 5), *REST_256)
    last = ((36,), (81,), (169,), (324,), (576,), (1024,))
    assert MASK_SCHEDULES["benchmark-512"] == ((1,), (1, 3), (1, 1, 2, 5), (5, 11), *last)
    last = ((25,), (49,), (81,), (144,), (256,), (441,), (729,), (1296,), (2304,), (4096,))
    assert MASK_SCHEDULES["benchmark-1024"] == ((1,), (1, 3), (1, 1, 2, 5), (3, 5, 8), *last)


def test_official_models_take_as_many_steps_as_the_official_code():
    steps = {name: MODELS[name].steps for name in MODELS if name.startswith("hmar-")}
    assert steps == {
        **dict.fromkeys(("hmar-d16", "hmar-d20", "hmar-d24", "hmar-d30"), 14),
        **dict.fromkeys(("hmar-d24-512", "hmar-d30-512", "hmar-d36-512"), 15),
        "hmar-d24-1024": 20,
    }
    for name in steps:
        MODELS[name].sampler.check_settings(MODELS[name], MODELS[name].settings)


@pytest.mark.parametrize("name", ["demo", "demo-fine"])
def test_the_schedules_of_the_demo_model_fit_it(name):
    spec = MODELS["demo/hmar"]
    spec.sampler.check_settings(spec, spec.settings.model_copy(update={"mask_schedule": name}))


def test_no_refinement_is_one_pass_per_scale():
    assert mask_schedule("none", SIDES_256) == tuple((h * w,) for h, w in SIDES_256)


def test_every_refinement_masks_the_tokens_not_settled_yet():
    assert masked_counts((1, 1, 2, 5)) == [8, 7, 5]
    assert masked_counts((16,)) == []


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (((1,), (1, 3)), r"has 2 entries, the model 4 scales \(1x1, 2x2, 3x3, 4x4\): one each"),
        (((1,), (1, 3), (1, 3, 4), (16,)), r"entry 2 \[1, 3, 4\] for scale 3x3 adds up to 8, .* 9 tokens"),
        (((1,), (0, 4), (9,), (16,)), r"entry 1 \[0, 4\] for scale 2x2 .* at least 1"),
        (((1,), (4, 3, -3), (9,), (16,)), "at least 1"),
        (((1,), (), (9,), (16,)), r"entry 1 \[\] for scale 2x2 adds up to 0"),
        ("benchmark-256", "'benchmark-256' has 10 entries, the model 4 scales"),
    ],
)
def test_a_schedule_that_does_not_fit_is_refused(schedule, message):
    spec, settings = tiny_hmar(), HmarSettings(cfg=1.5, mask_schedule=schedule)
    with pytest.raises(UserError, match=message):
        spec.sampler.check_settings(spec, settings)
    sampler = build_sampler(spec, weights="random:1")
    with pytest.raises(UserError, match=message):
        sampler.sample([0], settings, noise=PerImageNoise(0, [0]))


def test_an_unknown_schedule_names_the_nearest():
    spec = tiny_hmar()
    with pytest.raises(UnknownName, match="no mask schedule 'bench-256'; did you mean 'benchmark-256'"):
        spec.sampler.check_settings(spec, HmarSettings(cfg=1, mask_schedule="bench-256"))


def test_the_first_scale_cannot_be_refined():
    with pytest.raises(UserError, match="refines the first scale"):
        mask_schedule(((1, 3), (9,)), ((2, 2), (3, 3)))


def test_a_schedule_may_come_from_a_suite_as_lists():
    settings = HmarSettings.model_validate({"cfg": 1.5, "mask_schedule": [[1], [1, 3], [1, 3, 5], [4, 12]]})
    assert settings.mask_schedule == MASK_SCHEDULE
    assert HmarSettings.model_validate_json(settings.model_dump_json()) == settings
