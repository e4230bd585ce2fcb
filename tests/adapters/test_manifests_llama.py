"""Names, shapes and dtypes of every official LlamaGen, NAR and PAR file, checked without memory."""

from __future__ import annotations

import json

import pytest

from arvbench.adapters import MODELS
from arvbench.adapters.loading import meta_modules
from arvbench.adapters.tokenizers.vq import VqConfig, VqModel

# Model -> (manifest, parameters), counted on the official modules; a 256 px and a 384 px file have the same keys.
OFFICIAL = {
    "llamagen-b-256": ("llamagen_c2i_B_256_384", 110_888_448),
    "llamagen-b-384": ("llamagen_c2i_B_256_384", 110_888_448),
    "llamagen-l-256": ("llamagen_c2i_L_256_384", 342_910_976),
    "llamagen-l-384": ("llamagen_c2i_L_256_384", 342_910_976),
    "llamagen-xl-384": ("llamagen_c2i_XL_256_384", 774_699_520),
    "llamagen-xxl-384": ("llamagen_c2i_XXL_256_384", 1_410_972_672),
    "llamagen-3b-384": ("llamagen_c2i_3B_256_384", 3_096_659_200),
    "nar-b": ("nar_c2i_B_256", 130_551_552),
    "nar-m": ("nar_c2i_M_256", 295_453_696),
    "nar-l": ("nar_c2i_L_256", 372_536_320),
    "nar-xl": ("nar_c2i_XL_256", 815_991_040),
    "nar-xxl": ("nar_c2i_XXL_256", 1_464_454_656),
    "par-xl-4x-384": ("par_c2i_XL_4x_384", 774_703_360),
    "par-xxl-4x-384": ("par_c2i_XXL_4x_384", 1_410_977_280),
    "par-3b-4x-384": ("par_c2i_3B_4x_384", 3_096_668_800),
    "par-3b-16x-384": ("par_c2i_3B_16x_384", 3_096_707_200),
}
STEPS = {"llamagen": {256: 256, 384: 576}, "nar": {256: 31}, "par": {384: 147}}


def manifest(golden, name: str) -> dict[str, tuple[tuple[int, ...], str]]:
    entries = json.loads((golden / "manifests" / f"{name}.json").read_text())
    return {key: (tuple(shape), dtype) for key, (shape, dtype) in entries.items()}


def contents(module) -> dict[str, tuple[tuple[int, ...], str]]:
    return {k: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for k, t in module.state_dict().items()}


@pytest.mark.parametrize("name", sorted(OFFICIAL))
def test_state_dicts_equal_the_official_files(golden, name):
    official, parameters = OFFICIAL[name]
    modules = meta_modules(MODELS[name])
    assert contents(modules["transformer"]) == manifest(golden, official)
    assert contents(modules["tokenizer"]) == manifest(golden, "vq_ds16")
    assert sum(p.numel() for p in modules["transformer"].parameters()) == parameters


@pytest.mark.parametrize("name", sorted(OFFICIAL))
def test_passes_and_resolution_are_the_official_ones(name):
    spec = MODELS[name]
    assert spec.image_px == (384 if name.endswith("384") else 256)
    assert spec.tokens == (spec.image_px // 16) ** 2
    assert spec.steps == (51 if "16x" in name else STEPS[spec.family][spec.image_px])


@pytest.mark.parametrize(
    ("name", "config", "parameters"),
    [
        ("vq_ds16", VqConfig(), 71_883_403),
        ("vq_ds8", VqConfig(encoder_ch_mult=(1, 2, 2, 4), decoder_ch_mult=(1, 2, 2, 4)), 70_109_835),
    ],
)
def test_tokenizers_equal_the_official_files(golden, name, config, parameters):
    import torch

    with torch.device("meta"):
        vq = VqModel(config)
    assert contents(vq) == manifest(golden, name)
    assert sum(p.numel() for p in vq.parameters()) == parameters
    assert config.downsample == int(name.removeprefix("vq_ds"))


@pytest.mark.parametrize("family", ["llamagen", "nar", "par"])
def test_every_released_model_is_in_the_table(family):
    assert {name for name in MODELS if name.startswith(f"{family}-")} == {n for n in OFFICIAL if n.startswith(family)}
