"""Names, shapes and dtypes of every official VAR file, checked without memory."""

from __future__ import annotations

import json

import pytest

from arvbench.adapters import MODELS
from arvbench.adapters.loading import meta_modules

# Counted on the official modules (FoundationVision/VAR at 78b9539).
PARAMETERS = {
    "var-d16": 310_283_520,
    "var-d20": 600_917_136,
    "var-d24": 1_033_399_360,
    "var-d30": 2_010_020_356,
    "var-d36": 2_353_893_904,
}
TOKENIZER_PARAMETERS = 108_948_355


def manifest(golden, name: str) -> dict[str, tuple[tuple[int, ...], str]]:
    entries = json.loads((golden / "manifests" / f"{name}.json").read_text())
    return {key: (tuple(shape), dtype) for key, (shape, dtype) in entries.items()}


def contents(module) -> dict[str, tuple[tuple[int, ...], str]]:
    return {k: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for k, t in module.state_dict().items()}


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_state_dicts_equal_the_official_files(golden, name):
    modules = meta_modules(MODELS[name])
    official = "var-d36-512" if name == "var-d36" else name
    assert contents(modules["transformer"]) == manifest(golden, official)
    assert contents(modules["tokenizer"]) == manifest(golden, "vqvae-ch160v4096z32")
    assert sum(p.numel() for p in modules["transformer"].parameters()) == PARAMETERS[name]
    assert sum(p.numel() for p in modules["tokenizer"].parameters()) == TOKENIZER_PARAMETERS


def test_every_released_var_is_in_the_table():
    assert {name for name in MODELS if name.startswith("var-")} == set(PARAMETERS)
