"""Official recipes: the table agrees with its sources and with the models."""

from __future__ import annotations

import re

import pytest

from arvbench.adapters.flexvar.scale_lists import parse_scales
from arvbench.adapters.hmar.refinement import MASK_SCHEDULES
from arvbench.adapters.registry import MODELS
from arvbench.errors import UnknownName
from arvbench.harness.quality.reference.official import PUBLISHED
from arvbench.harness.suites.recipes import (
    IMAGES,
    OFFICIAL,
    Recipe,
    official_facts,
    recipe_deviations,
    recipe_for,
    recipes_of,
    why_no_recipe,
)
from arvbench.harness.suites.suite import sampling_settings
from arvbench.results.schema import CaseConfig

RECIPES = [recipe for model in MODELS for recipe in recipes_of(model).values()]
OFFICIAL_ONES = [recipe for recipe in RECIPES if recipe.name == OFFICIAL]
every_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: f"{recipe.model} {recipe.name}")
every_official = pytest.mark.parametrize("recipe", OFFICIAL_ONES, ids=lambda recipe: recipe.model)

SAME_AS = {
    "as NAR-B": "nar-b",
    "as LlamaGen": "llamagen-xl-384",
    "as LlamaGen script": "llamagen-xl-384",
    "as VAR; reference VIRTUAL_imagenet512.npz": "var-d16",
    "as above": "flexvar-d24",
}
"""Words in a cell that point to another row."""


def said(recipe: Recipe, column: str) -> str:
    text = recipe.stated[column]
    return said(recipe_for(SAME_AS[text]), column) if text in SAME_AS else text


def case(model: str, **changes) -> CaseConfig:
    recipe = recipe_for(model)
    fields = {"model": model, "weights": "hub", "recipe": recipe.name} | recipe.layer()
    fields["quality"] = fields["quality"] | {"protocols": ["adm-v1"]} | changes.pop("quality", {})
    fields["settings"] = fields["settings"] | changes.pop("settings", {})
    return CaseConfig(**(fields | changes))


def deviations(config: CaseConfig) -> dict:
    chosen = sampling_settings(MODELS[config.model], config.settings)
    return recipe_deviations(config, chosen.model_dump(mode="json"))


def test_every_model_has_a_recipe_or_a_reason_why_not():
    with_recipe = {recipe.model for recipe in OFFICIAL_ONES}
    for model in MODELS:
        assert (model in with_recipe) != bool(why_no_recipe(model)), model


def test_a_model_without_a_recipe_is_refused_with_the_reason_and_near_names():
    with pytest.raises(UnknownName, match=r"no official recipe \(its source states no guidance.*'llamagen-b-384'"):
        recipe_for("llamagen-b-256")
    with pytest.raises(UnknownName, match=r"no official recipe \(its source states .*speed benchmark.*'hmar-d24'"):
        recipe_for("hmar-d24-512")
    with pytest.raises(UnknownName, match=r"no official recipe \(it is a demo model of this package\) of model"):
        recipe_for("demo/var")
    with pytest.raises(UnknownName, match="no official recipe of model 'var-d17'; did you mean 'var-d16'"):
        recipe_for("var-d17")
    with pytest.raises(UnknownName, match="no recipe of flexvar-d20 'official-521'; did you mean 'official-512'"):
        recipe_for("flexvar-d20", "official-521")


@every_official
def test_a_recipe_equals_the_model_without_settings(recipe: Recipe):
    own = MODELS[recipe.model].settings.model_dump(mode="json")
    assert own | recipe.settings == own
    assert own.get("temperature", 1.0) == recipe.temperature


@every_recipe
def test_a_model_takes_its_recipe(recipe: Recipe):
    spec = MODELS[recipe.model]
    spec.sampler.check_settings(spec, sampling_settings(spec, recipe.settings))
    config = CaseConfig(model=recipe.model, weights="hub", **(recipe.layer() | {"quality": None}))
    assert config.dtype == (recipe.dtype or "float32")


@every_official
def test_the_schedule_of_a_recipe_is_that_of_the_model(recipe: Recipe):
    spec, text = MODELS[recipe.model], recipe.stated["patch_nums_or_steps"]
    if scales := re.match(r"\d+(_\d+)+", text):
        settings = sampling_settings(spec, recipe.settings)
        own = getattr(settings, "scales", None) or spec.transformer.patch_nums
        assert parse_scales(scales[0], first=(1, 1)) == parse_scales(tuple(own), first=(1, 1))
    else:
        assert int(re.match(r"\d+", text)[0]) == spec.steps


@pytest.mark.parametrize(
    "recipe", [recipe for recipe in RECIPES if "mask_schedule" in recipe.settings], ids=lambda recipe: recipe.model
)
def test_the_mask_schedule_is_the_one_that_is_stated(recipe: Recipe):
    text = recipe.stated["mask_schedule"]
    entries = tuple(tuple(map(int, entry.split(","))) for entry in re.findall(r"\[([\d,]+)\]", text))
    assert entries == MASK_SCHEDULES[recipe.settings["mask_schedule"]]
    assert f"{MODELS[recipe.model].steps} passes" in text


@pytest.mark.parametrize(("name", "steps", "px"), [("official-13-steps", 13, 16), ("official-512", 15, 32)])
def test_other_recipes_of_a_flexible_model_have_scales_of_their_own(name, steps, px):
    recipe = recipe_for("flexvar-d24", name)
    assert len(recipe.settings["scales"]) == steps and recipe.settings["scales"][-1] == px
    assert recipe.stated["patch_nums_or_steps"].startswith("_".join(map(str, recipe.settings["scales"])))
    assert recipe.settings["cfg"] == (3.0 if px == 32 else 2.5)


@every_recipe
def test_settings_that_are_stated_for_another_model_are_noted(recipe: Recipe):
    assert recipe.stated_for in ("", recipe.stated["published_as"])
    note = f"source: it states these settings for {recipe.stated_for}, and no others for this model"
    assert (note in recipe.notes) == bool(recipe.stated_for)


def test_the_source_of_flexvar_states_settings_for_one_size():
    assert [recipe_for(f"flexvar-{size}").stated_for for size in ("d16", "d20", "d24")] == [
        "FlexVAR-d24", "FlexVAR-d24", "",
    ]  # fmt: skip


@every_recipe
def test_labels_are_the_ones_that_are_stated(recipe: Recipe):
    text = said(recipe, "label_scheme")
    scheme = None
    if "uniform random" in text:
        scheme = "uniform"
    elif "50 per class" in text:
        scheme = "balanced-shuffled" if "shuffled" in text else "balanced"
    assert recipe.labels == scheme


@every_recipe
def test_the_dtype_is_the_nearest_to_the_stated_one(recipe: Recipe):
    text = said(recipe, "dtype_autocast")
    stated = {"fp16 autocast": "float16", "bf16": "bfloat16", "none (fp32)": "float32"}
    of_the_demo = "demo" in text  # nothing is stated for the samples behind the numbers
    nearest = next((dtype for words, dtype in stated.items() if words in text), None)
    assert recipe.dtype == (None if of_the_demo else nearest)
    noted = any(note.startswith("precision: ") and "half type" in note for note in recipe.notes)
    assert noted == ("autocast" in text and not of_the_demo)


@every_recipe
def test_the_uint8_rule_is_stated_or_left_open(recipe: Recipe):
    text = said(recipe, "post_processing")
    stated = {"127.5x+128": "127.5x+128", "save_image": "round", "np.round": "round"}
    assert recipe.uint8_rule == next((rule for words, rule in stated.items() if words in text), None)
    assert ("uint8_rule" in recipe.settings) == (recipe.uint8_rule is not None)


@every_recipe
def test_only_models_that_draw_384_px_are_resized(recipe: Recipe):
    text = said(recipe, "post_processing")
    assert (recipe.resize == "bicubic:256") == (recipe.stated["resolution"] == "384 -> 256") == ("bicubic" in text)
    assert (recipe.layer()["quality"]["resize"] == "bicubic:256") == (MODELS[recipe.model].image_px == 384)
    assert (recipe.resize is None) == (text in ("", "reference VIRTUAL_imagenet512.npz"))


@every_recipe
def test_numbers_are_the_stated_ones(recipe: Recipe):
    assert recipe.images == (IMAGES if recipe.stated["num_samples"] == "50000" else None)
    assert ("more_smooth" in recipe.settings) == ("more_smooth" in type(MODELS[recipe.model].settings).model_fields)
    assert not recipe.settings.get("more_smooth") and recipe.stated["more_smooth"][:5] in ("False", "")
    assert float(recipe.stated["cfg"]) == recipe.settings["cfg"]
    assert (recipe.stated["top_k"] == "0") == (recipe.settings["top_k"] is None)
    assert recipe.settings["top_k"] is None or recipe.stated["top_k"].startswith(str(recipe.settings["top_k"]))
    assert recipe.reference in {published.file_name for published in PUBLISHED.values()}
    assert ("512" in recipe.reference) == (recipe.stated["resolution"] == "512x512")


@every_recipe
def test_unstated_settings_are_reported_with_their_defaults(recipe: Recipe):
    silent = [field for field in ("dtype", "images", "labels", "uint8_rule", "resize")
              if getattr(recipe, field) is None]  # fmt: skip
    (said_so,) = [note for note in recipe.notes if note.startswith("not stated")] or [""]
    assert all(f"{field} (" in said_so for field in silent)
    assert bool(silent) == bool(said_so)
    assert any(note.startswith("seeds: ") for note in recipe.notes)


def test_var_and_mvar_state_the_precision_of_their_demo_and_no_other():
    for recipe in RECIPES:
        if MODELS[recipe.model].family in ("var", "mvar"):
            assert recipe.dtype is None, recipe.model
            assert "demo" in said(recipe, "dtype_autocast") or recipe.model == "var-d36"


def test_facts_for_the_detectors_are_only_the_stated_ones():
    assert official_facts("hmar-d16") == {
        "labels": "balanced", "uint8_rule": "round", "resize": "none", "images": "50000",
    }  # fmt: skip
    assert official_facts("mvar-d16") == {}
    assert official_facts("demo/var") is None


@every_official
def test_a_case_that_keeps_its_recipe_deviates_in_nothing(recipe: Recipe):
    assert deviations(case(recipe.model)) == {}


@pytest.mark.parametrize(
    ("model", "changes", "expected"),
    [
        ("hmar-d16", {"settings": {"cfg": 2.0}}, {"settings.cfg": (2.0, 1.7)}),
        ("hmar-d16", {"settings": {"uint8_rule": "truncate"}}, {"settings.uint8_rule": ("truncate", "round")}),
        ("var-d16", {"settings": {"uint8_rule": "round"}}, {"settings.uint8_rule": ("round", "not stated")}),
        ("nar-b", {"settings": {"temperature": 0.9}}, {"settings.temperature": (0.9, 1.0)}),
        ("nar-b", {"dtype": "float32"}, {"dtype": ("float32", "bfloat16")}),
        ("var-d36", {"dtype": "float16"}, {"dtype": ("float16", "not stated")}),
        ("nar-b", {"quality": {"images": 500}}, {"quality.images": (500, 50000)}),
        ("nar-b", {"quality": {"labels": "balanced"}}, {"quality.labels": ("balanced", "uniform")}),
        ("mvar-d16", {"quality": {"labels": "uniform"}}, {"quality.labels": ("uniform", "not stated")}),
        ("llamagen-b-384", {"quality": {"resize": None}}, {"quality.resize": (None, "bicubic:256")}),
        ("var-d16", {"quality": {"resize": "pil-bicubic:128"}}, {"quality.resize": ("pil-bicubic:128", None)}),
        ("var-d16", {"weights": "random:1"}, {"weights": ("random:1", "the released checkpoint")}),
        ("var-d16", {"quality": {"reference": "/data/val.npz"}},
         {"quality.reference": ("val.npz", "VIRTUAL_imagenet256_labeled.npz")}),
        ("var-d16", {"quality": {"reference": "/data/VIRTUAL_imagenet256_labeled.npz"}}, {}),
        ("var-d16", {"batch": 3, "backend": "reference", "quality": {"workers": 4, "bootstrap": 0}}, {}),
    ],
)  # fmt: skip
def test_every_change_of_a_recipe_is_a_deviation(model, changes, expected):
    differences = {key: (value["used"], value["official"]) for key, value in deviations(case(model, **changes)).items()}
    assert differences == expected


def test_a_case_without_a_recipe_deviates_from_none():
    assert deviations(case("var-d16", recipe=None, settings={"cfg": 9.0})) == {}
