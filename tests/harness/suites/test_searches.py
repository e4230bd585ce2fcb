"""Requests of searches in suites: what they stand for, and what is refused with one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from run_helpers import write_suite

from arvbench.errors import UserError
from arvbench.harness.suites.suite import Suite, check_cases, load_suite

ONE = {"model": "demo/var", "weights": "random:0"}
DIGITS = {"protocols": ["digits-cnn"], "reference": "digits", "images": 100}
BATCH = {"objective": "images/s", "over": {"batch": [4, 1, 2]}, "budget": 2}
FID = {"objective": "fid", "over": {"settings.cfg": [1.0, 2.0]}, "budget": 2}


def load(folder: Path, *cases: dict[str, Any], **options: Any) -> Suite:
    content = {key: options.pop(key) for key in ("defaults", "exclude", "models") if key in options}
    return load_suite(str(write_suite(folder / "s.yaml", cases=list(cases), **content)), **options)


def test_a_search_is_one_case_that_stands_for_its_first_try(tmp_path):
    (case,) = load(tmp_path, ONE | {"launches": 3, "search": BATCH}).cases
    assert case.config.batch == 1 and case.config.search.tries == 2 and case.config.search.number == 1
    assert case.case_id == "demo/var optimized b1 float32 cpu search(images/s,batch)"


def test_searches_are_an_axis_and_a_model_pattern_makes_one_each(tmp_path):
    suite = load(
        tmp_path, ONE | {"model": ["demo/var", "demo/nar"], "search": [BATCH, BATCH | {"objective": "memory"}]}
    )
    assert len(suite.cases) == len({case.case_id for case in suite.cases}) == 4


def test_searches_whose_tries_could_share_a_name_are_numbered(tmp_path):
    others = [BATCH | {"over": {"batch": values}} for values in ([1, 2], [2, 3])]
    names = [case.case_id for case in load(tmp_path, *(ONE | {"search": other} for other in others)).cases]
    assert names[1].endswith(" #2") and not names[0].endswith("#2")


def test_the_command_line_sets_the_budget_of_searches_alone(tmp_path):
    suite = load(tmp_path, ONE | {"search": BATCH}, ONE | {"batch": 7}, overrides={"search.budget": 3})
    assert [case.config.search and case.config.search.budget for case in suite.cases] == [3, None]


def test_values_of_a_point_lie_above_recipe_and_case(tmp_path):
    asked = {"objective": "memory", "over": {"settings.cfg": [9.0], "dtype": ["bfloat16"]}, "budget": 1}
    (case,) = load(tmp_path, {"model": "var-d16", "weights": "random:0", "recipe": "official", "search": asked}).cases
    assert case.config.settings["cfg"] == 9.0 and case.config.settings["top_k"] == 900
    assert case.config.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("search", "words"),
    [
        (BATCH | {"budget": 0}, "search.budget: Input should be greater than or equal to 1"),
        (BATCH | {"budget": "many"}, "search.budget: Input should be a valid integer"),
        (BATCH | {"budget": True}, "search.budget: yes, no, true and false"),
        (BATCH | {"budget": 1e9}, "search.budget: Input should be less than or equal to"),
        ({"objective": "images/s", "over": {"batch": [1]}}, "search.budget: Field required"),
        (BATCH | {"objective": "imgaes/s"}, "no objective 'imgaes/s'; did you mean 'images/s'"),
        (BATCH | {"objective": "adm-v1:fdi"}, "no objective 'adm-v1:fdi'; did you mean 'fid'"),
        (BATCH | {"objective": 3}, "search.objective"),
        (BATCH | {"over": {"batchs": [1]}}, "'batchs' cannot be searched; those that can: batch,"),
        (BATCH | {"over": {"settings.": [1]}}, "'settings.' cannot be searched"),
        (BATCH | {"over": {"quality.images": [100]}}, "'quality.images' cannot be searched"),
        (BATCH | {"over": {"batch": []}}, "batch: an empty list has no value to try"),
        (BATCH | {"over": {}}, "search.over"),
        (BATCH | {"over": [1, 2]}, "search.over"),
        (BATCH | {"over": {"batch": 8}}, "batch: write a list of values"),
        (BATCH | {"over": {"batch": [1, 1]}}, "batch: 1 is listed twice"),
        (BATCH | {"over": {"batch": [1, 1.0]}}, "batch: 1.0 is listed twice"),
        (BATCH | {"over": {"batch": [[1]]}}, "batch: [1] is no number"),
        (BATCH | {"over": {"batch": [0, 1]}}, "batch: Input should be greater than or equal to 1"),
        (BATCH | {"over": {"batch": ["two"]}}, "batch: Input should be a valid integer"),
        (BATCH | {"over": {"batch": {"low": 8, "high": 1}}}, "low 8 is not below high 1"),
        (BATCH | {"over": {"batch": {"low": 1}}}, "high"),
        (BATCH | {"over": {"batch": {"low": 1, "high": 10**9}}}, "more than 10,000 numbers"),
        (BATCH | {"over": {"settings.cfg": {"low": 1.0, "high": 2.0}}}, "need a step"),
        (BATCH | {"over": {"settings.cfg": {"low": 1, "high": 2, "step": 0}}}, "greater than 0"),
        (BATCH | {"over": {"batch": {"low": 1, "high": 200}, "threads": {"low": 1, "high": 200}}}, "40,000 points"),
        (BATCH | {"over": {"batch": {"low": True, "high": 3}}}, "true and false"),
        (BATCH | {"number": 2}, "search: number is counted by the run"),
        (BATCH | {"budgte": 2}, "unknown key 'budgte'; did you mean 'budget'"),
        ("knee", "search"),
        (FID, "its objective is fid, and the case does not ask for quality"),
        (BATCH | {"objective": "energy"}, "the case does not measure energy"),
    ],
)
def test_a_request_that_is_none_is_refused_by_its_place(tmp_path, search, words):
    with pytest.raises(UserError) as refused:
        load(tmp_path, ONE | {"search": search})
    assert words in str(refused.value) and "s.yaml: cases[0]" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ({"quality": DIGITS}, "random weights have no quality"),
        ({"weights": "demo", "quality": DIGITS | {"metrics": ["kid"]}}, "quality.metrics does not name it"),
        ({"weights": "demo", "quality": DIGITS | {"protocols": ["digits-cnn", "adm-v1"]}}, "digits-cnn:fid"),
        ({"weights": "demo", "quality": DIGITS, "search": FID | {"objective": "adm-v1:fid"}}, "does not name 'adm-v1'"),
        ({"settings": [{"cfg": 1.0}, {"cfg": 2.0}], "weights": "demo", "quality": DIGITS}, "a list of cases"),
        ({"batch": [1, 2], "search": BATCH}, "'batch' is searched, and a list of cases in the same case"),
        ({"search": [BATCH, BATCH | {"budget": 1}], "batch": [1, 2]}, "'batch' is searched, and a list"),
        (
            {"search": BATCH, "capacity": {"most": 8}, "memory_limit_bytes": 2**30},
            "capacity: a search for the largest batch has no quality, no sample_sheet and no search",
        ),
    ],
)
def test_a_search_that_does_not_fit_its_case_is_refused(tmp_path, case, words):
    with pytest.raises(UserError) as refused:
        load(tmp_path, ONE | {"search": FID} | case)
    assert words in str(refused.value)


def test_a_key_that_is_searched_cannot_be_set_or_excluded(tmp_path):
    with pytest.raises(UserError, match="'batch' is searched, and set on the command line"):
        load(tmp_path, ONE | {"search": BATCH}, overrides={"batch": 4})
    with pytest.raises(UserError, match="exclude: batch is searched by a case of demo/var"):
        load(tmp_path, ONE | {"search": BATCH}, ONE | {"batch": 9}, exclude=[{"batch": 9}])


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ({"search": BATCH | {"over": {"settings.cgf": [1.0]}}}, "cgf"),
        ({"search": BATCH | {"over": {"settings.top_k": [5, -1]}}}, "top_k"),
        ({"search": BATCH | {"over": {"cache": ["static", "no-such"]}}}, "no-such"),
        ({"weights": "demo", "quality": DIGITS, "search": FID | {"objective": "cmmd"}}, "its objective is cmmd"),
    ],
)
def test_a_value_that_the_model_refuses_is_found_before_the_first_try(tmp_path, case, words):
    with pytest.raises(UserError, match=words):
        check_cases(load(tmp_path, ONE | case).cases)
