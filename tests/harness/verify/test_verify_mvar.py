from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from arvbench.harness.verify import verify
from arvbench.harness.verify.fixture import read_fixture
from arvbench.harness.verify.mvar import replay


# The backends differ in what is kept between scales: the history (the official way), or the state.
@pytest.mark.parametrize("backend", ["reference", "optimized"])
@pytest.mark.parametrize("case", ["mvar_tiny_a", "mvar_tiny_b"])
def test_small_models_reproduce_the_official_code(golden, case, backend):
    checks = verify(golden / "recipe" / f"{case}.json", backend=backend)
    assert len(checks) == 26
    assert [c for c in checks if c.passed is False] == []
    # Greedy runs, teacher forcing and the tokenizer need no random stream: they are compared on every platform.
    compared = {c.check for c in checks if c.passed}
    mixer = {f"greedy.mamba0_{name}" for name in ("in", "out", "conv_state", "ssm_state")}
    assert {"greedy.ids", "greedy.image", "tf.logits", "tf.hidden", "vae.enc_ids", "vae.rec", *mixer} <= compared


@pytest.mark.slow
def test_the_official_d12_is_reproduced_at_full_size_with_the_carried_state(golden):
    torch.set_num_threads(2)
    checks = verify(golden / "recipe" / "mvar_full_d12.json", backend="optimized")
    assert len(checks) == 16
    assert [c for c in checks if c.passed is False] == []


@pytest.mark.parametrize("backend", ["reference", "optimized"])
def test_fixtures_with_all_weights_find_every_mixer_after_every_scale(golden, backend):
    produced = replay(read_fixture(golden / "recipe" / "mvar_tiny_a.json"), backend, torch.device("cpu"))
    for name in ("in", "out"):
        assert torch.equal(produced[f"mamba.0.{name}"], produced[f"greedy.mamba0_{name}"])
    for name in ("conv_state", "ssm_state"):
        assert torch.equal(produced[f"mamba.0.{name}.3"], produced[f"greedy.mamba0_{name}"])
        assert produced[f"mamba.1.{name}.0"].shape == produced[f"mamba.1.{name}.3"].shape
    # After one token, three of the four columns are still empty.
    assert produced["mamba.0.conv_state.0"][..., :3].abs().max() == 0 < produced["mamba.0.conv_state.0"].abs().max()
    assert produced["mamba.1.block_out"].shape == produced["mamba.1.in"].shape == (4, 30, 64)
    f_hat = produced["greedy.f_hat.all"][1]
    resized = torch.nn.functional.interpolate(f_hat, size=(3, 3), mode="area")
    torch.testing.assert_close(produced["greedy.next_map.1"], resized)
    assert torch.equal(produced["tf.hidden.1"], produced["tf.hidden"][1])


def test_logits_of_fixtures_with_all_weights_have_the_published_tolerance(tmp_path):
    outputs = ("greedy.logits_pre_cfg.0", "sample.logits_cfg.last", "tf.logits", "mamba.0.out", "smooth.f_hat")
    save_file({f"out.{name}": torch.zeros(1) for name in outputs}, tmp_path / "x.safetensors")
    tolerances = {}
    for family in ("mvar", "var"):
        description = {"case": "x", "family": family, "model_args": {}, "vae_args": {}, "sampling": {}}
        (tmp_path / "x.json").write_text(json.dumps(description))
        fixture = read_fixture(tmp_path / "x.json")
        tolerances[family] = [{e.name: e.tolerance for e in fixture.expectations}[name] for name in outputs]
    assert tolerances == {"mvar": [2e-3, 2e-3, 2e-3, 1e-4, 2e-2], "var": [1e-4, 3e-4, 1e-4, 1e-4, 2e-2]}
