"""Fixtures of the full kind, which carry their weights; made here from recipe fixtures."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from arvbench.adapters.loading import meta_modules
from arvbench.harness.verify import verify
from arvbench.harness.verify.formats import read_fixture
from arvbench.harness.verify.replays import REPLAYS


def write(path, description, tensors):
    path.write_text(json.dumps({"case": path.stem, **description}))
    save_file({name: t.contiguous().clone() for name, t in tensors.items()}, path.with_suffix(".safetensors"))
    return path


def whole_outputs(recipe, names):
    """Outputs of a recipe fixture that are not subsampled, under their names in a file."""
    return {f"out.{e.name}": e.values.view(e.shape) for e in recipe.expectations if e.name in names and e.stride == 1}


@pytest.fixture
def var(tmp_path, golden):
    recipe = read_fixture(golden / "recipe" / "var_tiny_b.json")
    tensors = {**recipe.weights, **{f"in.{k}": t for k, t in recipe.inputs.items()}}
    tensors |= whole_outputs(recipe, ("greedy.ids", "greedy.top1_logit"))
    for module, prefix in zip(meta_modules(REPLAYS["var"].spec(recipe)).values(), ("model.", "vae."), strict=True):
        tensors |= {prefix + name: t for name, t in module.constant_buffers().items()}
    description = {
        "family": "var",
        "model_args": dict(recipe.model_args),
        "vae_args": dict(recipe.tokenizer_args),
        "sampling": {name: {**run, "B": 2} for name, run in recipe.runs.items()},
    }
    return write(tmp_path / "full_b.json", description, tensors)


@pytest.fixture
def par(tmp_path, golden):
    recipe = read_fixture(golden / "recipe" / "par_tiny_a.json")
    tensors = {**recipe.weights, "vae.quantize.codebook_used": torch.zeros(65536)}
    tensors |= {"in.class_ids": recipe.inputs["labels"], "in.tf_tokens": recipe.inputs["tf_ids"]}
    tensors |= {"in.image": recipe.inputs["image"]}
    tensors |= whole_outputs(recipe, ("greedy.tokens", "order", "vq.recon"))
    image = whole_outputs(recipe, ("greedy.image",))["out.greedy.image"] * 127.5 + 128
    tensors["out.greedy.image_u8"] = image.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    description = {
        "family": "par",
        "gpt_config": dict(recipe.model_args),
        "vq_config": dict(recipe.tokenizer_args),
        "runs": [{"name": name, **run} for name, run in recipe.runs.items()],
    }
    return write(tmp_path / "full_a.json", description, tensors)


@pytest.mark.parametrize(
    ("family", "checks"),
    [
        ("var", {"greedy.ids": 0.0, "greedy.top1_logit": 1e-4}),
        ("par", {"greedy.image_u8": 1.0, "greedy.tokens": 0.0, "order": 0.0, "vq.recon": 2e-4}),
    ],
)
def test_a_full_fixture_carries_its_weights(family, checks, request):
    result = verify(request.getfixturevalue(family))
    assert sorted((c.check, c.passed, c.tolerance) for c in result) == [(name, True, checks[name]) for name in checks]


def test_a_full_fixture_with_another_weight_is_a_mismatch(var):
    stored = load_file(var.with_suffix(".safetensors"))
    stored["model.head.bias"] += torch.linspace(0, 1, len(stored["model.head.bias"]))
    save_file(stored, var.with_suffix(".safetensors"))
    assert any(c.passed is False for c in verify(var))


def test_logits_of_fixtures_with_all_weights_have_the_published_tolerance(tmp_path):
    outputs = ("greedy.logits_pre_cfg.0", "sample.logits_cfg.last", "tf.logits", "mamba.0.out", "smooth.f_hat")
    tolerances = {}
    for family in ("mvar", "var"):
        description = {"family": family, "model_args": {}, "vae_args": {}, "sampling": {}}
        path = write(tmp_path / "x.json", description, {f"out.{name}": torch.zeros(1) for name in outputs})
        tolerances[family] = [{e.name: e.tolerance for e in read_fixture(path).expectations}[name] for name in outputs]
    assert tolerances == {"mvar": [2e-3, 2e-3, 2e-3, 1e-4, 2e-2], "var": [1e-4, 3e-4, 1e-4, 1e-4, 2e-2]}
