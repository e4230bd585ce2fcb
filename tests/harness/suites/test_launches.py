"""`launches: N`: what a suite with several launches of a case stands for, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from run_helpers import write_suite

from arvbench.adapters.registry import MODELS
from arvbench.errors import UserError
from arvbench.harness.suites.suite import Suite, load_suite

ONE = {"model": "demo/var", "weights": "random:0"}
DIGITS = {"protocols": ["digits-cnn"], "reference": "digits", "images": 100}


def load(folder: Path, *cases: dict[str, Any], **options: Any) -> Suite:
    return load_suite(str(write_suite(folder / "s.yaml", cases=list(cases))), **options)


def test_launches_come_in_rounds_and_share_the_name_of_their_case(tmp_path):
    suite = load(tmp_path, ONE | {"launches": 3, "batch": 1}, ONE | {"batch": 2}, ONE | {"launches": 2, "batch": 4})
    assert [(case.config.batch, case.launch) for case in suite.cases] == [
        (1, 1),
        (2, 1),
        (4, 1),
        (1, 2),
        (4, 2),
        (1, 3),
    ]
    names = {case.config.batch: set() for case in suite.cases}
    for case in suite.cases:
        names[case.config.batch].add(case.case_id)
    assert [len(found) for found in names.values()] == [1, 1, 1] and len(set.union(*names.values())) == 3
    assert [case.title.partition(", ")[2] for case in suite.cases][:4] == ["launch 1", "", "launch 1", "launch 2"]


def test_only_the_first_launch_asks_for_what_does_not_depend_on_the_process(tmp_path):
    suite = load(tmp_path, ONE | {"launches": 3, "quality": DIGITS, "sample_sheet": 2})
    asked = [(case.config.quality is not None, case.config.sample_sheet) for case in suite.cases]
    assert asked == [(True, 2), (False, 0), (False, 0)]


def test_the_command_line_sets_launches_of_every_case(tmp_path):
    suite = load(tmp_path, ONE, ONE | {"launches": 5, "batch": 2}, overrides={"launches": 2})
    assert [(case.config.batch, case.launch) for case in suite.cases] == [(1, 1), (2, 1), (1, 2), (2, 2)]


def test_cases_that_differ_in_launches_alone_are_the_one_with_the_most(tmp_path):
    suite = load(tmp_path, ONE | {"launches": [1, 3, 2]})
    assert [case.launch for case in suite.cases] == [1, 2, 3]
    assert {case.config.launches for case in suite.cases} == {3}


@pytest.mark.parametrize("value", [0, -1, 1001, 1.5, "many", None, True, {}])
def test_launches_are_a_bounded_whole_number(tmp_path, value):
    with pytest.raises(UserError, match=r"s\.yaml: cases\[0\]: .*launches"):
        load(tmp_path, ONE | {"launches": value})


def test_more_launches_than_a_suite_may_have_are_counted_and_not_made(tmp_path):
    with pytest.raises(
        UserError, match=r"s\.yaml: its cases have 11,000 launches together; a suite has at most 10,000"
    ):
        load(tmp_path, ONE | {"launches": 1000, "batch": list(range(1, 12))})


def test_the_gate_suite_measures_demo_models_in_eight_launches_alone_and_in_a_batch():
    suite = load_suite("gate")
    models = {case.config.model for case in suite.cases}
    # The gate keeps its ten minutes: these six are in demo-all alone.
    not_gated = {"demo/detailflow", "demo/xar", "demo/flowar", "demo/mar", "demo/himar", "demo/dar"}
    assert models == {name for name in MODELS if name.startswith("demo/")} - not_gated
    assert len(suite.cases) == 8 * len(suite.first_launches)
    batches = {name: [c.config.batch for c in suite.first_launches if c.config.model == name] for name in models}
    assert all(min(sizes) == 1 for sizes in batches.values())
    assert sum(max(sizes) > 1 for sizes in batches.values()) == 4
    assert {(case.config.device, case.config.weights, case.config.threads) for case in suite.cases} == {
        ("cpu", "demo", 1)
    }
