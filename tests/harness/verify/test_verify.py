from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from arvbench.harness.cli import main
from arvbench.harness.verify import verify
from arvbench.harness.verify.fixture import FixtureError
from arvbench.harness.verify.formats import read_fixture
from arvbench.harness.verify.generated_weights import recipe_v1


def test_the_recipe_gives_the_published_numbers():
    expected = [0.7656847, 1.0474031, 0.7915911, 0.9257754, 0.7382391]
    assert recipe_v1("demo", "model.norm.weight", [5], 0.6536, 1.346).tolist() == pytest.approx(expected, abs=1e-7)


@pytest.fixture
def copy_of(tmp_path, golden):
    """Copy a recipe fixture, which a test may then damage: case -> (json, safetensors)."""

    def copy(case):
        return tuple(
            Path(shutil.copy(golden / "recipe" / f"{case}{suffix}", tmp_path)) for suffix in (".json", ".safetensors")
        )

    return copy


@pytest.fixture
def fixture(copy_of):
    return copy_of("var_tiny_a")


def edit(path, change) -> None:
    description = json.loads(path.read_text())
    change(description)
    path.write_text(json.dumps(description))


def test_a_wrong_id_is_a_mismatch_and_exit_code_1(fixture, capsys):
    edit(fixture[0], lambda d: d["expected"]["greedy.ids"][0].__setitem__(3, 0))
    assert main(["verify", str(fixture[0]), "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)
    failed = [row for row in rows if row["passed"] is False]
    assert [(row["fixture"], row["check"]) for row in failed] == [("var_tiny_a", "greedy.ids")]
    assert failed[0]["max_abs_diff"] > 0
    assert {"fixture", "check", "max_abs_diff", "tolerance", "passed"} <= rows[0].keys()


def test_a_float_outside_its_tolerance_is_a_mismatch(fixture, capsys):
    stored = load_file(fixture[1])
    stored["tf.logits"][5] += 2e-4
    save_file(stored, fixture[1])
    edit(fixture[0], lambda d: d.pop("safetensors_sha256"))
    assert main(["verify", str(fixture[0])]) == 1
    out = capsys.readouterr().out
    assert "FAIL" in out
    assert "1 failed" in out


def test_an_output_that_is_not_produced_fails(fixture):
    edit(fixture[0], lambda d: d["expected"].update({"greedy.unheard_of": [[1]]}))
    assert [c.note for c in verify(fixture[0]) if c.passed is False] == ["not produced"]


def test_seeded_runs_are_skipped_with_the_reason_where_the_stream_differs(fixture):
    def other_platform(description):
        for probe in description["rng_probe"].values():
            probe["exponential8"][0] += 1

    edit(fixture[0], other_platform)
    skipped = {c.check.split(".")[0] for c in verify(fixture[0]) if c.passed is None}
    assert skipped == {"sample", "sample_nolabel", "smooth"}
    assert all("exponential stream" in c.note for c in verify(fixture[0]) if c.passed is None)


def test_all_pass_is_exit_code_0(fixture, capsys):
    assert main(["verify", str(fixture[0])]) == 0
    assert "failed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda j, s: j.unlink(), "cannot read"),
        (lambda j, s: s.unlink(), "cannot read"),
        (lambda j, s: j.write_text("{"), "not JSON"),
        (lambda j, s: j.write_text("[]"), "not an object"),
        (lambda j, s: j.write_text("{}"), "neither a full nor a recipe fixture, nor one of units"),
        (lambda j, s: s.write_bytes(s.read_bytes()[:-4]), "sha256 differs"),
        (lambda j, s: edit(j, lambda d: d.pop("params")), "not a complete fixture"),
        (lambda j, s: edit(j, lambda d: d.update(seed_string="other")), "recipe gives other values"),
        (lambda j, s: edit(j, lambda d: d.update(family="nonsense")), "no fixture kind 'nonsense'"),
        (lambda j, s: edit(j, lambda d: d["config"]["model"].update(rope=True)), "not implemented: rope"),
        (lambda j, s: edit(j, lambda d: d["params"].pop("model.head.bias")), "missing (head.bias)"),
        (lambda j, s: edit(j, lambda d: d["config"].pop("vae")), "cannot be replayed"),
        (lambda j, s: edit(j, lambda d: d["runs"]["greedy"].pop("cfg")), "cannot be replayed"),
        (lambda j, s: edit(j, lambda d: d["config"]["model"].update(depth="two")), "cannot be replayed"),
        (lambda j, s: edit(j, lambda d: d["tensors"]["tf.logits"].update(stride=5)), "every 5th of"),
        (lambda j, s: edit(j, lambda d: d["runs"]["greedy"].update(top_k=-5)), "top_k"),
        (lambda j, s: edit(j, lambda d: d.update(safetensors="..")), "cannot read"),
        (lambda j, s: edit(j, lambda d: d["inputs"].update(labels=None)), "not a complete fixture"),
        (lambda j, s: edit(j, lambda d: d["params"]["model.head.bias"][0].append(10**12)), "values, and at most"),
        (lambda j, s: edit(j, lambda d: d["inputs"]["image"]["lo"][1].__setitem__(3, 0)), "not a complete fixture"),
        (lambda j, s: edit(j, lambda d: d["config"]["model"].update(depth=10**7)), "depth = 10000000 is too large"),
        (lambda j, s: edit(j, lambda d: d["config"]["vae"].update(ch_mult=[1] * 2000)), "is too large"),
        (lambda j, s: edit(j, lambda d: d["config"]["vae"].update(vocab_size=1e300)), "is too large"),
    ],
)
def test_an_unusable_fixture_is_exit_code_2_and_one_line(fixture, capsys, damage, reason):
    damage(*fixture)
    assert main(["verify", str(fixture[0])]) == 2
    captured = capsys.readouterr()
    assert reason in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.just([]), st.just({}))


@pytest.mark.fuzz
@given(data=st.data())
def test_a_changed_description_is_read_or_refused(data: st.DataObject, golden: Path, tmp_path_factory) -> None:
    folder = tmp_path_factory.getbasetemp()
    stored = Path(shutil.copy(golden / "recipe" / "par_tiny_a.safetensors", folder))
    description = json.loads((golden / "recipe" / "par_tiny_a.json").read_text())
    parent, key = description, data.draw(st.sampled_from(sorted(description)))
    while isinstance(parent[key], dict | list) and parent[key] and data.draw(st.integers(0, 3)):
        parent = parent[key]
        key = data.draw(st.sampled_from(sorted(parent) if isinstance(parent, dict) else range(len(parent))))
    parent[key] = data.draw(VALUES)
    path = stored.with_suffix(".json")
    path.write_text(json.dumps(description))
    with suppress(FixtureError):
        read_fixture(path)


def test_a_fixture_error_is_raised_to_python_callers(tmp_path):
    with pytest.raises(FixtureError):
        verify(tmp_path / "nothing.json")


def test_an_unusable_fixture_does_not_hide_the_others(fixture, tmp_path, capsys):
    assert main(["verify", str(fixture[0]), str(tmp_path / "nothing.json"), "--json"]) == 2
    captured = capsys.readouterr()
    assert {row["fixture"] for row in json.loads(captured.out)} == {"var_tiny_a"}
    assert "nothing.json" in captured.err


def test_a_nan_is_a_mismatch_and_valid_json(fixture, capsys):
    stored = load_file(fixture[1])
    stored["tf.logits"][5] = float("nan")
    save_file(stored, fixture[1])
    edit(fixture[0], lambda d: d.pop("safetensors_sha256"))
    assert main(["verify", str(fixture[0]), "--json"]) == 1
    rows = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert [row["note"] for row in rows if row["passed"] is False] == ["not finite"]


def test_another_masked_position_is_a_mismatch_and_another_order_is_not(copy_of):
    def move_one_and_reorder_others(description):
        steps = description["expected"]["greedy_mask.mask_idx"]
        steps[0][2][0] = [2, 1, 0]
        steps[1][2][0][0] = 8

    path, _ = copy_of("hmar_tiny_a")
    edit(path, move_one_and_reorder_others)
    assert [c.check for c in verify(path) if c.passed is False] == ["greedy_mask.mask_idx.2.1.set"]


@pytest.mark.parametrize(
    ("argument", "value"),
    [("n_kv_head", 1), ("model_type", "t2i"), ("cls_token_num", 120), ("medusa_attention_num", 2)],
)
def test_arguments_that_are_not_implemented_are_refused(copy_of, argument, value):
    path, _ = copy_of("nar_tiny_a")
    edit(path, lambda d: d["config"]["gpt"].update({argument: value}))
    with pytest.raises(FixtureError, match=f"not implemented: {argument}"):
        verify(path)
