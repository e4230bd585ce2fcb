from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from arvbench.adapters.loading import meta_modules
from arvbench.harness.cli import main
from arvbench.harness.verify import verify
from arvbench.harness.verify.fixture import FixtureError, read_fixture
from arvbench.harness.verify.generated_weights import recipe_v1
from arvbench.harness.verify.var import fixture_spec


def test_the_recipe_gives_the_published_numbers():
    expected = [0.7656847, 1.0474031, 0.7915911, 0.9257754, 0.7382391]
    assert recipe_v1("demo", "model.norm.weight", [5], 0.6536, 1.346).tolist() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("backend", ["reference", "optimized"])
@pytest.mark.parametrize("case", ["var_tiny_a", "var_tiny_b"])
def test_small_models_reproduce_the_official_code(golden, case, backend):
    checks = verify(golden / "recipe" / f"{case}.json", backend=backend)
    assert len(checks) >= 21
    assert [c for c in checks if c.passed is False] == []
    # Greedy runs, teacher forcing and the tokenizer need no random stream: they are compared on every platform.
    compared = {c.check for c in checks if c.passed}
    assert {"greedy.ids", "greedy.image", "tf.logits", "tf.hidden", "vae.enc_ids", "vae.rec"} <= compared


def test_the_official_d16_is_reproduced_at_full_size(golden):
    torch.set_num_threads(2)
    checks = verify(golden / "recipe" / "var_full_d16.json")
    assert len(checks) >= 15
    assert [c for c in checks if c.passed is False] == []


@pytest.fixture
def fixture(tmp_path, golden):
    """A copy that a test may damage: (json, safetensors)."""
    for suffix in (".json", ".safetensors"):
        shutil.copy(golden / "recipe" / f"var_tiny_a{suffix}", tmp_path)
    return tmp_path / "var_tiny_a.json", tmp_path / "var_tiny_a.safetensors"


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
        (lambda j, s: j.write_text("[]"), "no object"),
        (lambda j, s: j.write_text("{}"), "neither a full nor a recipe fixture"),
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
        (lambda j, s: edit(j, lambda d: d["inputs"].update(labels=None)), "not a complete fixture"),
    ],
)
def test_an_unusable_fixture_is_exit_code_2_and_one_line(fixture, capsys, damage, reason):
    damage(*fixture)
    assert main(["verify", str(fixture[0])]) == 2
    captured = capsys.readouterr()
    assert reason in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


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


def test_the_samplers_own_fixture_is_reproduced(golden):
    checks = verify(golden / "full" / "sampler_unit.json")
    assert len(checks) == 33
    assert [c for c in checks if c.passed is False] == []


@pytest.fixture
def full(tmp_path, golden):
    """A fixture of the full kind, with the weights and some outputs of a recipe fixture in its file."""
    recipe = read_fixture(golden / "recipe" / "var_tiny_b.json")
    outputs = {e.name: e.values.view(e.shape) for e in recipe.expectations if e.stride == 1}
    tensors = {**recipe.weights, **{f"in.{k}": t for k, t in recipe.inputs.items()}}
    tensors |= {f"out.{name}": t for name, t in outputs.items() if name in ("greedy.ids", "greedy.top1_logit")}
    spec_modules = meta_modules(fixture_spec(recipe))
    for module, prefix in zip(spec_modules.values(), ("model.", "vae."), strict=True):
        tensors |= {prefix + name: t for name, t in module.constant_buffers().items()}
    description = {
        "case": "full_b",
        "family": "var",
        "model_args": dict(recipe.model_args),
        "vae_args": dict(recipe.tokenizer_args),
        "sampling": {name: {**run, "B": 2} for name, run in recipe.runs.items()},
    }
    (tmp_path / "full_b.json").write_text(json.dumps(description))
    save_file({name: t.contiguous().clone() for name, t in tensors.items()}, tmp_path / "full_b.safetensors")
    return tmp_path / "full_b.json"


def test_a_full_fixture_carries_its_weights(full):
    checks = verify(full)
    assert [(c.check, c.passed, c.tolerance) for c in sorted(checks, key=lambda c: c.check)] == [
        ("greedy.ids", True, 0.0),
        ("greedy.top1_logit", True, 1e-4),
    ]


def test_a_full_fixture_with_another_weight_is_a_mismatch(full):
    stored = load_file(full.with_suffix(".safetensors"))
    stored["model.head.bias"] += torch.linspace(0, 1, len(stored["model.head.bias"]))
    save_file(stored, full.with_suffix(".safetensors"))
    assert any(c.passed is False for c in verify(full))
