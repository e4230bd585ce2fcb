"""Suites: what a file and a command line mean, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from run_helpers import write_suite

from arvbench.adapters.registry import MODELS
from arvbench.errors import UnknownName, UserError
from arvbench.harness.config import built_in_suites, check_cases, load_suite
from arvbench.harness.yaml_files import parse_value

ONE = {"model": "demo/var", "weights": "random:0"}


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


def test_a_model_may_be_a_pattern(tmp_path):
    suite = load(tmp_path, ONE | {"model": "var-d[123]*"}, models=["var-d2*", "var-d30"])
    assert [c.config.model for c in suite.cases] == ["var-d20", "var-d24", "var-d30"]


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ({"bach": 1}, r"s\.yaml: cases\[0\]: unknown key 'bach'; did you mean 'batch'"),
        ({"batch": 0}, r"s\.yaml: cases\[0\]: batch: .*greater than or equal to 1 \(got 0\)"),
        ({"batch": []}, "batch is an empty list"),
        ({"backend": "fastest"}, r"backend: .*'reference' or 'optimized'"),
        ({"quality": {"extractor": "digits-cnn", "reference": "digits", "image": 9}}, "unknown key 'image'.*'images'"),
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
    with pytest.raises(UserError, match=r"unknown setting 'batch\.size'"):
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
    quality = {"extractor": "digits-cnn", "reference": "digits", "images": 100}
    suite = load(tmp_path, ONE, ONE | {"quality": quality}, overrides={"quality.images": 7})
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


def test_reading_a_suite_does_not_import_torch():
    code = (
        "import sys; from arvbench.harness.config import load_suite; load_suite('demo'); print('torch' in sys.modules)"
    )
    source = Path(__file__).resolve().parents[2] / "src"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(source)}
    )
    assert done.stdout.strip() == "False"
