"""Sweeps: cases taken out of a product, settings by model, shards."""

from __future__ import annotations

import pytest
from run_helpers import write_suite

from arvbench.errors import UserError
from arvbench.harness.suites.suite import load_suite
from arvbench.harness.suites.sweep import Shard, parse_shard

DEFAULTS = {"weights": "random:0"}
PRODUCT = {"model": ["var-d16", "nar-b"], "batch": [1, 8, 32]}


def names(tmp_path, *, models=(), overrides=None, **content):
    path = write_suite(tmp_path / "s.yaml", defaults=DEFAULTS, **({"cases": [PRODUCT]} | content))
    return [
        f"{case.config.model} {case.config.batch}"
        for case in load_suite(str(path), models=models, overrides=overrides).cases
    ]


def test_exclude_takes_cases_that_have_every_value_of_a_rule(tmp_path):
    assert names(tmp_path, exclude=[{"model": "var-*", "batch": 32}, {"batch": [8, 64]}]) == [
        "var-d16 1",
        "nar-b 1",
        "nar-b 32",
    ]


def test_exclude_reaches_into_settings(tmp_path):
    case = PRODUCT | {"batch": 1, "settings": [{"cfg": 1.5}, {"cfg": 3.0}]}
    assert names(tmp_path, cases=[case], exclude=[{"settings": {"cfg": 3}}]) == ["var-d16 1", "nar-b 1"]


def test_include_adds_cases_that_no_rule_takes_out(tmp_path):
    added = names(tmp_path, exclude=[{"batch": [8, 32]}], include=[{"model": "var-d16", "batch": 8}])
    assert added == ["var-d16 1", "nar-b 1", "var-d16 8"]


def test_settings_of_a_model_win_over_the_case_and_lose_to_the_command_line(tmp_path):
    models = {"var-*": {"batch": [1, 2]}}
    path = write_suite(tmp_path / "m.yaml", defaults=DEFAULTS, cases=[PRODUCT], models=models)
    assert [c.config.batch for c in load_suite(str(path)).cases] == [1, 2, 1, 8, 32]
    assert [c.config.batch for c in load_suite(str(path), overrides={"batch": 4}).cases] == [4, 4]


def test_settings_of_a_model_ask_for_no_quality_where_the_case_asks_for_none(tmp_path):
    quality = {"protocols": ["digits-cnn"], "reference": "digits", "images": 10}
    content = {
        "defaults": DEFAULTS | {"quality": quality},
        "models": {"demo/*": {"quality": {"images": 20}}},
        "cases": [{"model": "demo/var", "quality": None}, {"model": "demo/var", "batch": 2}],
    }
    loaded = load_suite(str(write_suite(tmp_path / "m.yaml", **content))).cases
    assert [case.config.quality and case.config.quality.images for case in loaded] == [None, 20]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"exclude": [{"batch": 64}]}, "matches no case"),
        ({"exclude": [{"dtype": "float32"}]}, "leaves no case"),
        ({"exclude": [{"bach": 1}]}, "exclude[0]: unknown key 'bach'"),
        ({"exclude": [{}]}, "exclude.0"),
        ({"include": [{"model": "var-d16", "batch": "many"}]}, "include[0]"),
        ({"models": {"var-*": {"recipe": "official"}}}, "recipe cannot be set by model"),
        ({"models": {"no-such": {"batch": 1}}}, "no model 'no-such'"),
        ({"models": {"var-*": {"bach": 1}}}, "unknown key 'bach'"),
    ],
)
def test_a_sweep_that_says_nothing_is_refused(tmp_path, content, words):
    path = write_suite(tmp_path / "s.yaml", defaults=DEFAULTS, cases=[PRODUCT], **content)
    with pytest.raises(UserError, match=words.replace("[", r"\[").replace("*", r"\*")):
        load_suite(str(path))


@pytest.mark.parametrize("text", ["0/0", "0/2", "3/2", "1", "a/b", "1/0", "-1/2", "1/2/3", ""])
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(UserError, match="write k/n"):
        parse_shard(text)


def test_shards_have_every_case_once_with_all_its_launches(tmp_path):
    path = write_suite(tmp_path / "s.yaml", defaults=DEFAULTS | {"launches": 2}, cases=[PRODUCT])
    whole = load_suite(str(path))
    shards = [whole.shard(parse_shard(f"{k}/4")) for k in (1, 2, 3, 4)]
    assert [len(shard.cases) for shard in shards] == [4, 4, 2, 2]
    assert sorted(c.title for shard in shards for c in shard.cases) == sorted(c.title for c in whole.cases)


@pytest.mark.parametrize("total", [0, 1, 5, 64, 65])
def test_ranges_of_shards_have_every_index_once(total):
    ranges = [Shard(k, 8).range_of(total) for k in range(1, 9)]
    assert [i for numbers in ranges for i in numbers] == list(range(total))
