"""Names, shapes and dtypes of every HMAR file, released or of training, checked without memory."""

from __future__ import annotations

import json

import pytest

from arvbench.adapters import MODELS
from arvbench.adapters.hmar.checkpoints import merged_name, training_module
from arvbench.adapters.loading import meta_modules

# Counted on the official modules (NVlabs/HMAR at 595a9df).
PARAMETERS = {
    "hmar-d16": 467_691_904,
    "hmar-d20": 845_517_872,
    "hmar-d24": 1_384_328_960,
    "hmar-d30": 2_556_324_212,
    "hmar-d24-512": 1_386_725_120,
    "hmar-d30-512": 2_559_319_412,
    "hmar-d36-512": 2_883_825_200,
}
STAGES = {"nsp": ("hmar-nsp-train-d16", 310_283_520), "mp": ("hmar-mp-train-d16", 310_284_544)}


def manifest(golden, name: str) -> dict[str, tuple[tuple[int, ...], str]]:
    entries = json.loads((golden / "manifests" / f"{name}.json").read_text())
    return {key: (tuple(shape), dtype) for key, (shape, dtype) in entries.items()}


def contents(module) -> dict[str, tuple[tuple[int, ...], str]]:
    return {k: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for k, t in module.state_dict().items()}


def count(module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_state_dicts_equal_the_official_files(golden, name):
    modules = meta_modules(MODELS[name])
    assert contents(modules["transformer"]) == manifest(golden, "hmar-d36-512-saln" if name == "hmar-d36-512" else name)
    assert contents(modules["tokenizer"]) == manifest(golden, "vqvae-ch160v4096z32")
    assert count(modules["transformer"]) == PARAMETERS[name]


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_training_checkpoints_have_the_official_names_and_fit_into_the_merged_file(golden, stage):
    name, parameters = STAGES[stage]
    config = MODELS["hmar-d16"].transformer
    module, official = training_module(config, stage), manifest(golden, name)
    assert contents(module) == official
    assert count(module) == parameters
    merged = contents(meta_modules(MODELS["hmar-d16"])["transformer"])
    renamed = {merged_name(key, stage, config): entry for key, entry in official.items()}
    assert len(renamed) == len(official)
    assert renamed.items() <= merged.items()
    other = "mask" if stage == "nsp" else "ns"
    assert {key.split(".")[0].split("_")[0] for key in merged.keys() - renamed.keys()} == {other}


def test_the_1024_px_model_differs_in_its_scales_alone():
    small, large = (meta_modules(MODELS[name])["transformer"] for name in ("hmar-d24", "hmar-d24-1024"))
    differing = {key for key, entry in contents(large).items() if contents(small)[key] != entry}
    assert differing == {"pos_1LC", "lvl_embed.weight", "lvl_1L", "attn_bias_for_masking"}
    assert MODELS["hmar-d24-1024"].tokens == 9451
    assert MODELS["hmar-d24-1024"].image_px == 1024


def test_every_hmar_is_in_the_table():
    assert {name for name in MODELS if name.startswith("hmar-")} == {*PARAMETERS, "hmar-d24-1024"}
    released = {name for name in MODELS if name.startswith("hmar-") and MODELS[name].checkpoint}
    assert released == {"hmar-d16", "hmar-d20", "hmar-d24", "hmar-d30"}
    assert {MODELS[name].checkpoint.tokenizer_repo for name in released} == {"FoundationVision/var"}


@pytest.mark.parametrize(
    ("name", "cfg", "top_k"),
    [("hmar-d16", 1.7, 1000), ("hmar-d20", 1.9, 950), ("hmar-d24", 2.1, 900), ("hmar-d30", 1.6, 650)],
)
def test_settings_are_those_of_the_official_evaluation(name, cfg, top_k):
    settings = MODELS[name].settings
    assert (settings.cfg, settings.top_k, settings.top_p, settings.mask_schedule) == (
        cfg,
        top_k,
        0.99,
        "evaluation-256",
    )
    assert settings.uint8_rule == "round"
