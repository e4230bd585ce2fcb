"""Names, shapes and dtypes of every official M-VAR file, checked without memory."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from arvbench.adapters import MODELS
from arvbench.adapters.loading import meta_modules

# Counted on the official modules (OliverRensu/MVAR at 80768a1), without and with normalised attention.
PARAMETERS = {
    ("mvar-d12", False): 198_435_424,
    ("mvar-d12", True): 198_435_568,
    ("mvar-d16", False): 464_157_184,
    ("mvar-d16", True): 464_157_440,
    ("mvar-d20", False): 900_528_736,
    ("mvar-d20", True): 900_529_136,
    ("mvar-d24", True): 1_550_067_136,
    ("mvar-d30", True): 3_017_065_756,
    ("mvar-d32", True): 3_658_707_968,
}
DEFAULTS = {"mvar-d12": False, "mvar-d16": False, "mvar-d20": False}
"""Whether attention is normalised unless a file says otherwise; the larger models: yes."""


def manifest(golden, name: str) -> dict[str, tuple[tuple[int, ...], str]]:
    entries = json.loads((golden / "manifests" / f"{name}.json").read_text())
    return {key: (tuple(shape), dtype) for key, (shape, dtype) in entries.items()}


def contents(module) -> dict[str, tuple[tuple[int, ...], str]]:
    return {k: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for k, t in module.state_dict().items()}


@pytest.mark.parametrize(("name", "l2_norm"), sorted(PARAMETERS))
def test_state_dicts_equal_the_official_files(golden, name, l2_norm):
    # The hook that reads the file decides on normalisation: here the manifest stands for the file.
    official = f"{name}-l2norm" if l2_norm and name in DEFAULTS else name
    opposite = replace(MODELS[name].transformer, attn_l2_norm=not l2_norm)
    spec = MODELS[name].sampler.adapt_spec(replace(MODELS[name], transformer=opposite), manifest(golden, official))
    modules = meta_modules(spec)
    assert contents(modules["transformer"]) == manifest(golden, official)
    assert contents(modules["tokenizer"]) == manifest(golden, "vqvae-ch160v4096z32")
    assert sum(p.numel() for p in modules["transformer"].parameters()) == PARAMETERS[name, l2_norm]


def test_every_released_mvar_is_in_the_table_with_the_normalisation_that_its_authors_state():
    models = {name: MODELS[name] for name in MODELS if name.startswith("mvar-")}
    assert models.keys() == {name for name, _ in PARAMETERS}
    assert {name for name, spec in models.items() if not spec.transformer.attn_l2_norm} == DEFAULTS.keys()


def test_files_are_looked_for_under_their_published_names():
    checkpoint = MODELS["mvar-d32"].checkpoint
    assert (checkpoint.hub_repo, checkpoint.transformer_file) == ("OliverRen/M-VAR", "d32.pth")
    assert (checkpoint.tokenizer_repo, checkpoint.tokenizer_file) == ("FoundationVision/var", "vae_ch160v4096z32.pth")
