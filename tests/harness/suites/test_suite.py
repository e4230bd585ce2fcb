"""Suites: the meaning of a file and a command line, and the refused ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from run_helpers import write_suite

from arvbench.adapters.registry import MODELS
from arvbench.errors import UnknownName, UserError
from arvbench.harness.suites.built_in import built_in_suites
from arvbench.harness.suites.suite import check_cases, load_suite
from arvbench.harness.suites.yaml_files import parse_value

ONE = {"model": "demo/var", "weights": "random:0"}
DIGITS = {"protocols": ["digits-cnn"], "reference": "digits", "images": 100}


def load(tmp_path: Path, *cases: dict, defaults: dict | None = None, **options):
    path = write_suite(tmp_path / "s.yaml", cases=list(cases), defaults=defaults or {})
    return load_suite(str(path), **options)


def test_a_list_of_scales_is_text_and_not_a_number(tmp_path):
    path = tmp_path / "suite.yaml"
    path.write_text("name: a\ncases:\n  - {model: demo/flexvar, weights: demo, settings: {scales: 1_2_4_8}}\n")
    (case,) = load_suite(str(path)).cases
    assert case.config.settings == {"scales": "1_2_4_8"}
    check_cases([case])
    assert parse_value("1_2_4_8") == "1_2_4_8"
    assert parse_value("12") == 12


def test_a_cache_policy_that_the_settings_exclude_is_refused_before_anything_runs(tmp_path):
    path = write_suite(tmp_path / "a.yaml", cases=[{"model": "demo/hmar", "weights": "demo", "cache": "grow"}])
    with pytest.raises(UserError, match="needs the setting kv_cache=true"):
        check_cases(load_suite(str(path)).cases)


def test_later_layers_win_and_mappings_merge_by_key(tmp_path):
    suite = load(
        tmp_path,
        {"batch": 2, "settings": {"cfg": 2.0}},
        defaults=ONE | {"batch": 1, "repeats": 3, "threads": 1, "settings": {"cfg": 1.0, "top_k": 9}},
        overrides={"threads": 2, "settings.top_p": 0.5},
    )
    (case,) = suite.cases
    assert (case.config.batch, case.config.repeats, case.config.threads) == (2, 3, 2)
    assert case.config.settings == {"cfg": 2.0, "top_k": 9, "top_p": 0.5}


def test_an_empty_mapping_in_a_case_keeps_the_quality_of_the_defaults(tmp_path):
    suite = load(tmp_path, ONE | {"quality": {}}, defaults={"quality": DIGITS})
    assert [c.config.quality.images for c in suite.cases] == [100]


def test_the_command_line_reaches_the_quality_that_an_empty_mapping_keeps(tmp_path):
    case, defaults = ONE | {"quality": {}}, {"quality": DIGITS}
    suite = load(tmp_path, case, defaults=defaults, overrides={"quality.images": 7})
    assert [c.config.quality.images for c in suite.cases] == [7]


def test_a_list_of_quality_requests_may_hold_none(tmp_path):
    suite = load(tmp_path, ONE | {"quality": [None, DIGITS]}, overrides={"quality.images": 7})
    assert [c.config.quality and c.config.quality.images for c in suite.cases] == [None, 7]


def test_the_command_line_wins_over_a_case(tmp_path):
    suite = load(tmp_path, ONE | {"batch": [1, 8], "settings": {"cfg": 2}}, overrides={"batch": 4, "settings.cfg": 3})
    assert [(c.config.batch, c.config.settings) for c in suite.cases] == [(4, {"cfg": 3})]


def test_lists_become_the_product_of_cases_with_unique_names(tmp_path):
    suite = load(tmp_path, ONE | {"cache": ["grow", "static"], "batch": [1, 8]})
    assert [(c.config.cache, c.config.batch) for c in suite.cases] == [
        ("grow", 1),
        ("grow", 8),
        ("static", 1),
        ("static", 8),
    ]
    assert len({c.case_id for c in suite.cases}) == 4


def test_cases_that_differ_in_minor_fields_get_numbered_names(tmp_path):
    suite = load(tmp_path, ONE | {"repeats": [1, 2]})
    first, second = (case.case_id for case in suite.cases)
    assert second == f"{first} #2"


def test_equal_cases_are_measured_once(tmp_path):
    assert len(load(tmp_path, ONE, ONE | {"batch": 1}).cases) == 1


def test_settings_may_be_a_list_of_mappings(tmp_path):
    suite = load(tmp_path, ONE | {"settings": [{"cfg": 1}, {"cfg": 2}]}, overrides={"settings.top_k": 5})
    assert [c.config.settings for c in suite.cases] == [{"cfg": 1, "top_k": 5}, {"cfg": 2, "top_k": 5}]


def test_a_list_of_mappings_goes_on_top_of_a_mapping(tmp_path):
    suite = load(tmp_path, ONE | {"settings": [{"cfg": 1}, {"top_k": 7}]}, defaults={"settings": {"top_k": 5}})
    assert [c.config.settings for c in suite.cases] == [{"top_k": 5, "cfg": 1}, {"top_k": 7}]


def test_names_from_before_there_were_protocols_are_understood(tmp_path):
    quality = {"extractor": "digits-cnn", "reference": "digits", "images": 100, "metrics": ["fid", "prc"]}
    (case,) = load(tmp_path, ONE | {"quality": quality}).cases
    assert case.config.quality.protocols == ("digits-cnn",)
    assert case.config.quality.metrics == ("fid", "precision", "recall")


def test_a_model_may_be_a_pattern(tmp_path):
    suite = load(tmp_path, ONE | {"model": "var-d[123]*"}, models=["var-d2*", "var-d30"])
    assert [c.config.model for c in suite.cases] == ["var-d20", "var-d24", "var-d30"]


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ({"bach": 1}, r"s\.yaml: cases\[0\]: unknown key 'bach'; did you mean 'batch'"),
        ({"batch": 0}, r"s\.yaml: cases\[0\]: batch: .*greater than or equal to 1 \(got 0\)"),
        ({"batch": []}, "batch is an empty list"),
        ({"backend": "fastest"}, r"s\.yaml: cases\[0\]: backend: no backend 'fastest'; known: optimized, reference"),
        ({"quality": DIGITS | {"image": 9}}, "unknown key 'image'.*'images'"),
        (
            {"quality": DIGITS | {"protocols": ["adm-v2"]}},
            r"s\.yaml: cases\[0\]: quality\.protocols: no protocol 'adm-v2'; did you mean 'adm-v1'",
        ),
        ({"quality": DIGITS | {"protocols": []}}, r"quality\.protocols: .*at least 1 item"),
    ],
)
def test_a_bad_case_is_refused_with_file_and_key(tmp_path, case, message):
    with pytest.raises(UserError, match=message):
        load(tmp_path, ONE | case)


def test_unknown_keys_are_fatal_everywhere(tmp_path):
    with pytest.raises(UserError, match="defaults: unknown key 'devcie'; did you mean 'device'"):
        load(tmp_path, ONE, defaults={"devcie": "cpu"})
    with pytest.raises(UserError, match=r"command line: unknown key 'cfg'.*settings.cfg"):
        load(tmp_path, ONE, overrides={"cfg": 2})
    with pytest.raises(UserError, match=r"'batch\.size': only settings, quality, energy, search and kernels have keys"):
        load(tmp_path, ONE, overrides={"batch.size": 2})
    with pytest.raises(UserError, match=r"s\.yaml: unknown key 'case'; did you mean 'cases'"):
        load_suite(str(write_suite(tmp_path / "s.yaml", case=[ONE])))


def test_a_missing_key_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cases\[0\]: weights: Field required"):
        load(tmp_path, {"model": "demo/var"})


def test_unknown_names_come_with_near_misses(tmp_path):
    with pytest.raises(UnknownName, match=r"no model 'var-16'; did you mean 'var-d16'"):
        load(tmp_path, ONE | {"model": "var-16"})
    with pytest.raises(UnknownName, match="no model 'vard16'; did you mean 'var-d16'"):
        load(tmp_path, ONE, models=["vard16"])
    with pytest.raises(UserError, match=r"no case of this suite has a model 'var-d16'; its models: demo/var"):
        load(tmp_path, ONE, models=["var-d16"])
    with pytest.raises(UnknownName, match="no suite 'dmeo'; did you mean 'demo'"):
        load_suite("dmeo")


def test_a_file_that_is_no_suite_is_refused(tmp_path):
    path = tmp_path / "s.yaml"
    with pytest.raises(UserError, match="cannot read"):
        load_suite(str(path))
    path.write_text("cases: [}")
    with pytest.raises(UserError, match=r"s\.yaml.*line 1"):
        load_suite(str(path))
    path.write_text("- demo/var")
    with pytest.raises(UserError, match="a suite is a mapping"):
        load_suite(str(path))
    path.write_text("name: a\nname: b\ncases: [{model: demo/var, weights: demo}]")
    with pytest.raises(UserError, match="key 'name' is written twice"):
        load_suite(str(path))


def test_quality_settings_reach_only_cases_that_ask_for_quality(tmp_path):
    suite = load(tmp_path, ONE, ONE | {"quality": DIGITS}, overrides={"quality.images": 7})
    assert [c.config.quality and c.config.quality.images for c in suite.cases] == [None, 7]
    with pytest.raises(UserError, match="no case asks for quality"):
        load(tmp_path, ONE, overrides={"quality.images": 7})


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ({"settings": {"top_k": 10**6}}, "top_k 1000000 is larger than the vocabulary"),
        ({"settings": {"top_p": 0}}, "top_p.*greater than 0"),
        ({"settings": {"top_p": 1.5}}, "top_p.*less than or equal to 1"),
        ({"settings": {"topk": 5}}, "unknown key 'topk'; did you mean 'top_k'"),
        ({"settings": {"top_k": 10**6}}, "case 'demo/var .*: top_k"),
        ({"weights": "random"}, "case 'demo/var .*: .*random:0"),
        ({"weights": "/no/such/folder"}, "case 'demo/var .*: "),
        ({"model": "var-d16", "weights": "/no/such/folder"}, "no weights at /no/such/folder"),
        ({"model": "var-d16", "weights": "demo"}, "var-d16 has no demo weights"),
        ({"weights": "hub"}, "demo/var has no official files"),
        ({"cache": "groww"}, "no cache policy 'groww'; did you mean 'grow'"),
        (
            {"quality": DIGITS | {"metrics": ["fdi"]}},
            "case 'demo/var .*: no metric of digits-cnn 'fdi'; did you mean 'fid'",
        ),
        ({"quality": DIGITS | {"protocols": ["clip-fid"], "metrics": ["kid"]}}, "no metric of clip-fid 'kid'"),
    ],
)
def test_what_a_model_would_refuse_is_refused_before_the_run(tmp_path, case, message):
    suite = load(tmp_path, ONE | case)
    with pytest.raises(UserError, match=message):
        check_cases(suite.cases)


def test_a_folder_of_weights_is_whole_or_refused_before_the_run(tmp_path):
    official = MODELS["var-d16"].checkpoint
    (tmp_path / official.transformer_file).write_bytes(b"not read here")
    suite = load(tmp_path, {"model": "var-d16", "weights": str(tmp_path)})
    with pytest.raises(UserError, match=rf"{official.tokenizer_file} is missing"):
        check_cases(suite.cases)
    (tmp_path / official.tokenizer_file).write_bytes(b"not read here")
    check_cases(suite.cases)


@pytest.mark.parametrize("name", built_in_suites())
def test_built_in_suites_are_valid(name):
    suite = load_suite(name)
    check_cases(suite.cases)
    assert suite.name == name


def test_reading_suites_and_their_recipes_does_not_import_torch():
    code = (
        "import sys; from arvbench.harness.suites.suite import load_suite; load_suite('demo'); "
        "load_suite('imagenet256'); print('torch' in sys.modules)"
    )
    source = Path(__file__).resolve().parents[3] / "src"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(source)}
    )
    assert done.stdout.strip() == "False"


NAR = {"model": "nar-b", "weights": "random:0", "recipe": "official"}
ADM = {"protocols": ["adm-v1"]}


def test_a_recipe_fills_in_what_published_numbers_were_made_with(tmp_path):
    (case,) = load(tmp_path, NAR | {"quality": ADM}).cases
    assert case.config.dtype == "bfloat16"
    assert case.config.settings == {"cfg": 2.0, "top_k": None, "top_p": None, "uint8_rule": "127.5x+128"}
    quality = case.config.quality
    assert (quality.images, quality.labels, quality.resize) == (50_000, "uniform", None)
    assert quality.reference == "VIRTUAL_imagenet256_labeled.npz"


def test_a_recipe_wins_over_defaults_and_loses_to_the_case_and_the_command_line(tmp_path):
    everything = {"cfg": 9.0, "top_k": 9, "uint8_rule": "truncate"}
    (case,) = load(
        tmp_path,
        NAR | {"settings": {"uint8_rule": "round", "top_k": 5}, "quality": {"labels": "balanced", "seed": 3}},
        defaults={"dtype": "float16", "batch": 7, "settings": everything, "quality": ADM | {"images": 9, "workers": 2}},
        overrides={"settings.top_k": 4, "quality.seed": 8},
    ).cases
    config, quality = case.config, case.config.quality
    assert config.settings == {"cfg": 2.0, "top_k": 4, "top_p": None, "uint8_rule": "round"}
    assert (config.dtype, config.batch) == ("bfloat16", 7)
    assert (quality.images, quality.labels, quality.seed, quality.workers) == (50_000, "balanced", 8, 2)


def test_each_model_of_a_pattern_gets_its_own_recipe(tmp_path):
    suite = load(tmp_path, NAR | {"model": "hmar-d[123]?", "batch": [1, 8]})
    assert [(c.config.model, c.config.batch, c.config.settings["top_k"]) for c in suite.cases][:4] == [
        ("hmar-d16", 1, 1000), ("hmar-d16", 8, 1000), ("hmar-d20", 1, 950), ("hmar-d20", 8, 950),
    ]  # fmt: skip


def test_a_recipe_adds_no_quality_to_a_case_that_asks_for_none(tmp_path):
    suite = load(tmp_path, NAR, NAR | {"quality": ADM}, NAR | {"quality": None, "batch": 2})
    assert [case.config.quality is None for case in suite.cases] == [True, False, True]


def test_a_recipe_can_be_one_of_several_or_taken_away(tmp_path):
    flexvar = NAR | {"model": "flexvar-d24", "recipe": ["official", "official-512", None]}
    suite = load(tmp_path, flexvar)
    assert [(c.config.recipe, len(c.config.settings.get("scales", ()))) for c in suite.cases] == [
        ("official", 9), ("official-512", 15), (None, 0),
    ]  # fmt: skip
    assert len({case.case_id for case in suite.cases}) == 3
    assert [c.config.settings for c in load(tmp_path, flexvar, overrides={"recipe": None}).cases] == [{}]


def test_the_name_of_a_case_tells_only_what_leaves_its_recipe(tmp_path):
    (case,) = load(tmp_path, NAR | {"quality": ADM}, overrides={"settings.cfg": 4}).cases
    assert case.case_id == "nar-b optimized b1 bfloat16 cpu official cfg=4 quality(adm-v1)"


def test_a_model_without_a_recipe_is_refused_with_the_reason(tmp_path):
    with pytest.raises(UnknownName, match=r"no official recipe .*states no guidance.* 'llamagen-b-256'"):
        load(tmp_path, NAR | {"model": "llamagen-b-256"})
    with pytest.raises(UnknownName, match="no recipe of nar-b 'offical'; did you mean 'official'"):
        load(tmp_path, NAR | {"recipe": "offical"})


PUBLISHED = {"VIRTUAL_imagenet256_labeled.npz": "adm-v1", "adm_in256_stats.npz": "torch-fidelity-adm"}
"""Statistics that papers compare with -> the protocol that reproduces their numbers."""


def test_the_imagenet_suites_ask_for_the_published_protocol():
    wanted = {"imagenet256": PUBLISHED, "imagenet512": {"VIRTUAL_imagenet512.npz": "adm-v1"}}
    for name, protocols in wanted.items():
        asked = {}
        for case in load_suite(name).cases:
            quality = case.config.quality
            asked.setdefault(quality.reference, set()).update(quality.protocols)
            assert quality.images == 50_000 and case.config.recipe is not None and case.config.weights == "hub"
        assert asked == {reference: {protocol} for reference, protocol in protocols.items()}


def test_every_official_recipe_at_256_px_is_in_the_suite_with_its_statistics():
    from arvbench.harness.suites.recipes import OFFICIAL, recipes_of

    recipes = [recipes_of(model).get(OFFICIAL) for model in MODELS]
    wanted = {recipe.model: recipe.reference for recipe in recipes if recipe and recipe.reference in PUBLISHED}
    assert {case.config.model: case.config.quality.reference for case in load_suite("imagenet256").cases} == wanted
