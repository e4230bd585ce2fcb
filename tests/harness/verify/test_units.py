"""Fixtures of single functions, and those that follow a paper instead of official code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from arvbench.harness.cli import main
from arvbench.harness.verify import verify


def edit(path, change) -> None:
    description = json.loads(path.read_text())
    change(description)
    path.write_text(json.dumps(description))


@pytest.fixture
def copy_of(tmp_path, golden):
    def copy(case):
        for suffix in (".safetensors", ".json"):
            path = Path(shutil.copy(golden / "recipe" / f"{case}{suffix}", tmp_path))
        return path

    return copy


def test_a_fixture_from_a_paper_says_that_it_proves_no_parity(golden, capsys):
    path = golden / "recipe" / "hack_paper_a.json"
    assert main(["verify", str(path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows
    assert all("not parity with official code" in row["note"] for row in rows)


def test_heads_that_keep_different_numbers_of_tokens_are_compared_one_by_one(copy_of):
    path = copy_of("hack_paper_a")
    edit(path, lambda d: d["expected"]["small.kept.3"][1][1].pop())
    assert [c.check for c in verify(path) if c.passed is False] == ["small.kept.3"]


@pytest.mark.parametrize("case", ["scalekv_tiny_a", "fastvar_tiny_a", "hack_paper_a"])
def test_a_wrong_position_is_a_mismatch(copy_of, case):
    path = copy_of(case)
    name = next(name for name in json.loads(path.read_text())["expected"] if ".kept" in name)

    def change(description):
        row = description["expected"][name]
        while isinstance(row[0], list):
            row = row[0]
        row[0] += 1

    edit(path, change)
    assert [c.check for c in verify(path) if c.passed is False] == [name]


@pytest.mark.parametrize(
    ("case", "change", "reason"),
    [
        ("scalekv_tiny_a", lambda d: d["cases"]["max5"].pop("window_size"), "window_size"),
        ("scalekv_tiny_a", lambda d: d["cases"]["max5"].update(pooling="sum"), "pooling 'sum'"),
        ("scalekv_tiny_a", lambda d: d["cases"]["max5"]["inputs"]["q"].pop(), "max5.q.6"),
        ("scalekv_tiny_a", lambda d: d["cases"]["max5"].update(seed_string=7), None),
        ("fastvar_tiny_a", lambda d: d["cases"]["square"].update(ratio="half"), "cannot be replayed"),
        ("fastvar_tiny_a", lambda d: d["cases"]["square"].update(cache_side=[5, 5]), "cannot be replayed"),
        ("fastvar_tiny_a", lambda d: d["recipe_check"][0].update(seed_string="other"), "recipe gives other values"),
        ("fastvar_tiny_a", lambda d: d["cases"]["square"]["inputs"]["x"][1].append(10**12), "values, and at most"),
        ("hack_paper_a", lambda d: d["cases"]["small"].update(contextual_heads=None), "cannot be replayed"),
        ("hack_paper_a", lambda d: d.update(cases=[]), "not a complete fixture"),
        ("scalekv_tiny_b", lambda d: d["runs"]["greedy"].pop("compression"), "compression"),
        (
            "scalekv_tiny_b",
            lambda d: d["runs"]["greedy"]["compression"].update(budget_after_scale=[1]),
            "cannot be replayed",
        ),
        ("fastvar_tiny_b", lambda d: d["runs"]["greedy"]["pruning"].update(cache_side=7), "cache_side 7"),
        ("fastvar_tiny_b", lambda d: d["runs"]["greedy"]["pruning"].update(layers=[9]), "prune_layers has 9"),
        ("code_tiny_a", lambda d: d["runs"]["greedy_n2"].update(draft_steps=6), "draft_steps 6 must be in 1..5"),
        ("code_tiny_a", lambda d: d["runs"]["greedy_n2"].update(temp=[1.0]), "temperatures has 1 values"),
        ("code_tiny_a", lambda d: d["config"].pop("refiner"), "refiner"),
        ("code_tiny_a", lambda d: d["config"]["refiner"].update(patch_nums=[1, 2]), "share scales"),
    ],
)
def test_an_unusable_fixture_is_exit_code_2(copy_of, capsys, case, change, reason):
    path = copy_of(case)
    edit(path, change)
    code = main(["verify", str(path)])
    assert code == (2 if reason else 1)
    assert (reason or "") in capsys.readouterr().err
