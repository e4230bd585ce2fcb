"""Files of HMAR's training and facts of its release, beside the manifests that all models have."""

from __future__ import annotations

import pytest
from manifests import contents, manifest, parameters

from arvbench.adapters import MODELS
from arvbench.adapters.hmar.checkpoints import merged_name, training_module
from arvbench.adapters.loading import meta_modules

# Counted on the official modules (NVlabs/HMAR at 595a9df).
STAGES = {"nsp": ("hmar-nsp-train-d16", 310_283_520), "mp": ("hmar-mp-train-d16", 310_284_544)}


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_training_checkpoints_have_the_official_names_and_fit_into_the_merged_file(stage):
    name, count = STAGES[stage]
    config = MODELS["hmar-d16"].transformer
    module, official = training_module(config, stage), manifest(name)
    assert contents(module) == official
    assert parameters(module) == count
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
    assert MODELS["hmar-d24-1024"].checkpoint is None


@pytest.mark.parametrize(
    ("name", "cfg", "top_k"),
    [("hmar-d16", 1.7, 1000), ("hmar-d20", 1.9, 950), ("hmar-d24", 2.1, 900), ("hmar-d30", 1.6, 650)],
)
def test_settings_are_those_of_the_official_evaluation(name, cfg, top_k):
    settings = MODELS[name].settings
    drawn = (settings.cfg, settings.top_k, settings.top_p, settings.mask_schedule)
    assert drawn == (cfg, top_k, 0.99, "evaluation-256")
    assert settings.uint8_rule == "round"
