"""LlamaGen, NAR and PAR reproduce what their official code produced."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from arvbench.harness.verify import verify
from arvbench.harness.verify.fixture import FixtureError, read_fixture

TINY = [f"{family}_tiny_{case}" for family in ("llamagen", "nar", "par") for case in "ab"]


@pytest.mark.parametrize("backend", ["reference", "optimized"])
@pytest.mark.parametrize("case", TINY)
def test_small_models_reproduce_the_official_code(golden, case, backend):
    checks = verify(golden / "recipe" / f"{case}.json", backend=backend)
    assert len(checks) >= 27
    assert [c for c in checks if c.passed is False] == []
    # Greedy runs, teacher forcing and the tokenizer need no random stream: they are compared on every platform.
    compared = {c.check for c in checks if c.passed}
    assert {"greedy.tokens", "greedy_interval.tokens", "greedy.image", "tf.logits", "tf.hidden"} <= compared
    assert {"order", "step_raster", "num_forward_passes", "vq.ids", "vq.recon"} <= compared


@pytest.mark.slow
def test_the_official_nar_b_is_reproduced_at_full_size(golden):
    torch.set_num_threads(2)
    checks = verify(golden / "recipe" / "nar_full_B.json")
    assert len(checks) >= 19
    assert [c for c in checks if c.passed is False] == []


@pytest.mark.parametrize(
    ("argument", "value"),
    [("n_kv_head", 1), ("model_type", "t2i"), ("cls_token_num", 120), ("medusa_attention_num", 2)],
)
def test_what_is_not_implemented_is_refused(golden, tmp_path, argument, value):
    for suffix in (".json", ".safetensors"):
        shutil.copy(golden / "recipe" / f"nar_tiny_a{suffix}", tmp_path)
    path = tmp_path / "nar_tiny_a.json"
    description = json.loads(path.read_text())
    description["config"]["gpt"][argument] = value
    path.write_text(json.dumps(description))
    with pytest.raises(FixtureError, match=f"not implemented: {argument}"):
        verify(path)


@pytest.fixture
def full(tmp_path, golden):
    """A fixture of the full kind, with the weights and some outputs of a recipe fixture in its file."""
    recipe = read_fixture(golden / "recipe" / "par_tiny_a.json")
    outputs = {e.name: e.values.view(e.shape) for e in recipe.expectations if e.stride == 1}
    tensors = {**recipe.weights, "vae.quantize.codebook_used": torch.zeros(65536)}
    tensors |= {"in.class_ids": recipe.inputs["labels"], "in.tf_tokens": recipe.inputs["tf_ids"]}
    tensors |= {"in.image": recipe.inputs["image"]}
    tensors |= {f"out.{name}": outputs[name] for name in ("greedy.tokens", "order", "vq.recon")}
    image = outputs["greedy.image"] * 127.5 + 128
    tensors["out.greedy.image_u8"] = image.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    description = {
        "case": "full_a",
        "family": "par",
        "gpt_config": dict(recipe.model_args),
        "vq_config": dict(recipe.tokenizer_args),
        "runs": [{"name": name, **run} for name, run in recipe.runs.items()],
    }
    (tmp_path / "full_a.json").write_text(json.dumps(description))
    save_file({name: t.contiguous().clone() for name, t in tensors.items()}, tmp_path / "full_a.safetensors")
    return tmp_path / "full_a.json"


def test_a_full_fixture_carries_its_weights(full):
    assert [(c.check, c.passed, c.tolerance) for c in sorted(verify(full), key=lambda c: c.check)] == [
        ("greedy.image_u8", True, 1.0),
        ("greedy.tokens", True, 0.0),
        ("order", True, 0.0),
        ("vq.recon", True, 2e-4),
    ]
