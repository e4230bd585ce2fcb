"""Names, shapes and dtypes of every official FlexVAR file, checked without memory."""

from __future__ import annotations

import json

import pytest

from arvbench.adapters import MODELS
from arvbench.adapters.loading import meta_modules

# Counted on the official modules (jiaosiyu1999/FlexVAR at 04462cb).
PARAMETERS = {"flexvar-d16": 315_561_936, "flexvar-d20": 607_513_952, "flexvar-d24": 1_041_314_576}
TOKENIZER_PARAMETERS = 72_049_827


def manifest(golden, name: str) -> dict[str, tuple[tuple[int, ...], str]]:
    entries = json.loads((golden / "manifests" / f"{name}.json").read_text())
    return {key: (tuple(shape), dtype) for key, (shape, dtype) in entries.items()}


def contents(module) -> dict[str, tuple[tuple[int, ...], str]]:
    return {k: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for k, t in module.state_dict().items()}


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_state_dicts_equal_the_official_files(golden, name):
    modules = meta_modules(MODELS[name])
    assert contents(modules["transformer"]) == manifest(golden, name)
    assert contents(modules["tokenizer"]) == manifest(golden, "flexvae")
    assert sum(p.numel() for p in modules["transformer"].parameters()) == PARAMETERS[name]
    assert sum(p.numel() for p in modules["tokenizer"].parameters()) == TOKENIZER_PARAMETERS


def test_every_released_flexvar_is_in_the_table():
    assert {name for name in MODELS if name.startswith("flexvar-")} == set(PARAMETERS)


def test_files_are_looked_for_under_their_published_names():
    files = {name: MODELS[name].checkpoint for name in PARAMETERS}
    assert {name: c.transformer_file for name, c in files.items()} == {
        "flexvar-d16": "FlexVARd16-epo179.pth",
        "flexvar-d20": "FlexVARd20-epo249.pth",
        "flexvar-d24": "FlexVARd24-epo349.pth",
    }
    assert {(c.hub_repo, c.tokenizer_file) for c in files.values()} == {("jiaosiyu1999/FlexVAR", "FlexVAE.pth")}
