"""A file of another family is refused, and the error names that family."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from latent_forms import TINY_FLOWAR, TINY_HIMAR, TINY_MAR, TINY_XAR, weights_of
from safetensors.torch import load_file, save_file

from arvbench.adapters import MODELS
from arvbench.adapters.checkpoints import random_tensors
from arvbench.adapters.loading import DEMO_FOLDER, build_sampler, demo_models, meta_modules
from arvbench.errors import CheckpointError

DEMOS = demo_models()
UNLIKE = ("demo/hmar", "demo/var")
"""A model whose training checkpoint has the names of another one."""


def pairs():
    """Every two models; by default each is once the one that was asked for and once the one that the file has."""
    for (number, ours), (other, theirs) in itertools.permutations(enumerate(DEMOS), 2):
        default = other == (number + 1) % len(DEMOS) or (ours, theirs) == UNLIKE
        yield pytest.param(ours, theirs, marks=[] if default else [pytest.mark.slow])


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> dict[str, Path]:
    """A bundle of random weights per demo model."""
    folder = tmp_path_factory.mktemp("bundles")
    paths = {}
    for name in DEMOS:
        tensors = {}
        for part, module in meta_modules(MODELS[name]).items():
            for key, tensor in random_tensors(module, 0, torch.device("cpu")).items():
                tensors[f"{part}.{key}"] = tensor.clone()
        paths[name] = folder / f"{name.replace('/', '-')}.safetensors"
        save_file(tensors, paths[name])
    return paths


@pytest.mark.parametrize(("ours", "theirs"), list(pairs()))
def test_the_error_names_the_family_that_the_file_belongs_to(bundles, ours, theirs):
    expected = rf"looks most like the \w+ of {theirs} "
    if (ours, theirs) == UNLIKE:
        expected = "this file is a VAR or, under the same names, an HMAR training checkpoint"
    with pytest.raises(CheckpointError, match=expected):
        build_sampler(MODELS[ours], weights=str(bundles[theirs]))


@pytest.mark.parametrize("name", DEMOS)
def test_every_model_loads_its_own_file(bundles, name):
    assert build_sampler(MODELS[name], weights=str(bundles[name])).spec == MODELS[name]


def official_file(name: str, path: Path) -> Path:
    """A file with the names and shapes of an official transformer; its values take no memory."""
    state = meta_modules(MODELS[name])["transformer"].state_dict()
    path.parent.mkdir(exist_ok=True)
    torch.save({k: torch.zeros(1, dtype=t.dtype).expand(t.shape) for k, t in state.items()}, path)
    return path


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("var-d16", "hmar-d16"),
        ("hmar-d16", "mvar-d16"),
        ("mvar-d16", "flexvar-d16"),
        ("flexvar-d16", "var-d16"),
        ("nar-b", "llamagen-b-256"),
        ("llamagen-l-256", "nar-l"),
        ("par-xl-4x-384", "llamagen-xl-384"),
        ("mvar-d30", "mvar-d32"),
        ("nar-l", "var-d16"),
        ("xar-b", "flowar-s"),
        ("flowar-l", "xar-l"),
        ("mar-b", "himar-b"),
        ("himar-b", "mar-b"),
    ],
)
def test_official_files_of_another_model_are_recognised(tmp_path, ours, theirs):
    checkpoint = MODELS[ours].checkpoint
    path = official_file(theirs, tmp_path / checkpoint.transformer_file)
    torch.save({"x": torch.zeros(1)}, tmp_path / checkpoint.tokenizer_file)
    with pytest.raises(CheckpointError, match=f"looks most like the transformer of {theirs} "):
        build_sampler(MODELS[ours], weights=str(path))


@pytest.mark.parametrize("spec", [TINY_XAR, TINY_FLOWAR, TINY_MAR, TINY_HIMAR], ids=lambda spec: spec.family)
def test_a_vae_of_another_family_is_recognised(tmp_path, spec):
    var = load_file(DEMO_FOLDER / "var.safetensors")
    theirs = {key.removeprefix("tokenizer."): t for key, t in var.items() if key.startswith("tokenizer.")}
    save_file(weights_of(spec, tokenizer=theirs), tmp_path / "mixed.safetensors")
    with pytest.raises(CheckpointError, match="looks most like the tokenizer of demo/var ") as refused:
        build_sampler(spec, weights=str(tmp_path / "mixed.safetensors"))
    assert "\n" not in str(refused.value)
