"""Every family reproduces the recordings of its official code."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from arvbench.harness.verify import verify
from arvbench.harness.verify.formats import read_fixture
from arvbench.harness.verify.replays import REPLAYS

GOLDEN = Path(__file__).parents[2] / "golden"
TINY = sorted(path.stem for kind in ("tiny", "paper") for path in (GOLDEN / "recipe").glob(f"*_{kind}_*.json"))
# Greedy runs, training passes and tokenizers need no random stream: they are compared on every platform.
VAR = {"greedy.ids", "greedy.image", "tf.logits", "tf.hidden", "vae.enc_ids", "vae.rec"}
FLEXVAR_RUN = ("ids", "effective_top_k", "next_quant", "logits_cfg", "image")
COMPARED = {
    "var": VAR,
    "mvar": VAR | {f"greedy.mamba0_{name}" for name in ("in", "out", "conv_state", "ssm_state")},
    "hmar": {
        *(f"greedy_mask.{name}" for name in ("ns_ids", "ids", "mask_logits_pre_cfg")),
        *(f"greedy_mask.mask_idx.{step}.set" for step in ("1.1", "2.1", "2.2")),
        *("greedy_nomask.ids", "greedy_kvcache.ids", "nsp.input", "nsp.logits", "mp.mask_input", "mp.logits"),
        *("vae.enc_ids", "vae.rec"),
    },
    "flexvar": {"tf.logits", "tf.hidden", "vae.enc_conti", "vae.enc_ids", "vae.dec_tf_mid"},
    "flexvar_tiny_a": {f"greedy.{name}" for name in FLEXVAR_RUN},
    "flexvar_tiny_b": {f"greedy_12steps.{name}" for name in FLEXVAR_RUN},
    **dict.fromkeys(
        ("llamagen", "nar", "par"),
        {"greedy.tokens", "greedy_interval.tokens", "greedy.image", "tf.logits", "tf.hidden"}
        | {"order", "step_raster", "num_forward_passes", "vq.ids", "vq.recon"},
    ),
    "xar": {
        *(
            "tf.velocity",
            "tf.hidden",
            "tf.loss",
            "vae.moments",
            "vae.latents",
            "vae.recon",
            "recipe.num_forward_passes",
        ),
        *(f"recipe.{name}" for name in ("cells", "x.0", "v.0", "x.1", "v.1", "k_cache", "latents", "image")),
    },
    "flowar": {
        *("tf.condition", "tf.velocity", "tf.hidden", "tf.loss", "vae.moments", "vae.latents", "vae.recon"),
        *(f"recipe.{name}" for name in ("head_evaluations", "ends", "condition", "x.1", "v.1", "x.2", "v.2", "t")),
        *(f"recipe.{name}" for name in ("k_cache", "latents", "image")),
    },
    "mar": {
        *("tf.encoder", "tf.condition", "tf.head", "tf.hidden", "tf.loss", "vae.moments", "vae.latents", "vae.recon"),
        *(f"recipe.{name}" for name in ("tokens_per_pass", "timesteps", "cfg", "sampled", "condition", "x.0", "out.0")),
        *(f"recipe.{name}" for name in ("latents", "image")),
        *(f"seeded.{name}" for name in ("orders", "tokens_per_pass")),
    },
    "mar_tiny_a": {f"{run}.{name}" for run in ("nocfg", "constant") for name in ("sampled", "cfg", "latents", "image")},
    "himar": {
        *(f"tf.{name}" for name in ("condition1", "condition2", "head", "dit")),
        *(f"vae.{name}" for name in ("moments", "latents", "recon")),
        *(
            f"recipe.{name}"
            for name in ("pivots_per_pass", "dit_timesteps", "pivots", "pivot_z", "maps", "x.1", "eps.1")
        ),
        *(f"recipe.{name}" for name in ("condition1", "condition2", "sampled1", "latents", "image")),
        *(f"{run}.{name}" for run in ("seeded", "nocfg") for name in ("orders", "pivots_per_pass")),
    },
    "detailflow": {"greedy.tokens", "greedy_gradual.tokens", "greedy.image", "tf.logits", "tf.hidden", "tf.loss"}
    | {"mask", "step_gen_order", "num_forward_passes", "vq.ids", "vq.recon", "vq.preview"},
    "dar": {"greedy.tokens", "greedy.image", "tf.logits", "tf.hidden", "tf.loss", "num_forward_passes"}
    | {"vq.ids", "vq.cond", "velocity.out", "velocity.hidden", "dec_recipe.image", "dec_recipe.x", "dec_preview.image"},
    "code": {"vae.enc_ids"},
    "code_tiny_a": {f"greedy_n{n}.{name}" for n in (2, 4) for name in ("ids", "logits_pre_cfg", "f_hat.all", "image")},
    "code_tiny_b": {f"greedy_n{n}.{name}" for n in (1, 5) for name in ("ids", "logits_pre_cfg", "f_hat.all", "image")},
    "scalekv_tiny_a": {"max5.kept.6", "avg3.kept.4", "small_scale.kept.3", "official_2b_refiner.k.12"},
    "scalekv_tiny_b": {"greedy.ids", "greedy.kept.3.1", "greedy.kept.4.3", "greedy.logits_cfg", "greedy.image"},
    "fastvar_tiny_a": {"wide.kept", "infinity_32.restored", "hart_48.restored"},
    "fastvar_tiny_b": {"greedy.ids", "greedy.kept.4.1.attn", "greedy.kept.5.2.ffn", "greedy.image"},
    "hack_paper_a": {"small.kept.4", "var.head_order", "var.column_variance"},
    "hmar_full_d16": {"greedy_mask.ids", "greedy_nomask.ids", "greedy_mask.mask_idx.2.3.set"},
}
"""Family or fixture -> outputs that must have been compared, and not skipped."""
COUNTS = {
    "var_tiny_a": 22,
    "var_tiny_b": 22,
    "mvar_tiny_a": 26,
    "mvar_tiny_b": 26,
    "hmar_tiny_a": 41,
    "hmar_tiny_b": 42,
    "flexvar_tiny_a": 27,
    "flexvar_tiny_b": 26,
    "nar_tiny_a": 31,
    "nar_tiny_b": 31,
    **dict.fromkeys(("llamagen_tiny_a", "llamagen_tiny_b", "par_tiny_a", "par_tiny_b"), 27),
    "xar_tiny_a": 23,
    "xar_tiny_b": 19,
    "flowar_tiny_a": 22,
    "flowar_tiny_b": 22,
    "himar_tiny_a": 31,
    "mar_tiny_a": 35,
    "mar_tiny_b": 25,
    **dict.fromkeys(("detailflow_tiny_a", "detailflow_tiny_b"), 28),
    "dar_tiny_a": 33,
    "dar_tiny_b": 31,
    "code_tiny_a": 22,
    "code_tiny_b": 15,
    "fastvar_tiny_a": 8,
    "fastvar_tiny_b": 34,
    "hack_paper_a": 10,
    "scalekv_tiny_a": 21,
    "scalekv_tiny_b": 22,
    "var_full_d16": 16,
    "mvar_full_d12": 16,
    "hmar_full_d16": 28,
    "flexvar_full_d16": 16,
    "nar_full_B": 19,
}
"""Fixture -> outputs that it recorded."""


def check_reproduced(case: str, backend: str) -> None:
    checks = verify(GOLDEN / "recipe" / f"{case}.json", backend=backend)
    assert len(checks) == COUNTS.get(case, len(checks)) > 0
    assert [c for c in checks if c.passed is False] == []
    family = case.split("_")[0] if "_tiny_" in case else ""
    assert COMPARED.get(family, set()) | COMPARED.get(case, set()) <= {c.check for c in checks if c.passed}


# M-VAR's backends differ in the cache: the history of all scales (the official way), or the state.
@pytest.mark.parametrize(
    ("case", "backend"),
    [
        # The second model of a family has other sizes: by default it is compared where it alone has some outputs, and
        # under one backend, as promises of families hold for both.
        pytest.param(
            case,
            backend,
            marks=[pytest.mark.slow] * (case.endswith("_tiny_b") and (backend == "optimized" or case not in COMPARED)),
        )
        for case in TINY
        for backend in ("reference", "optimized")
    ],
)
def test_small_models_reproduce_the_official_code(case, backend):
    check_reproduced(case, backend)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "backend"),
    [
        ("var_full_d16", "reference"),
        ("mvar_full_d12", "optimized"),
        ("hmar_full_d16", "reference"),
        ("flexvar_full_d16", "reference"),
        ("nar_full_B", "reference"),
    ],
)
def test_an_official_model_is_reproduced_at_full_size(case, backend):
    torch.set_num_threads(2)
    check_reproduced(case, backend)


def test_the_samplers_own_fixture_is_reproduced(golden):
    checks = verify(golden / "full" / "sampler_unit.json")
    assert len(checks) == 33
    assert [c for c in checks if c.passed is False] == []


@pytest.mark.parametrize("backend", ["reference", "optimized"])
def test_fixtures_with_all_weights_find_every_mixer_after_every_scale(golden, backend):
    fixture = read_fixture(golden / "recipe" / "mvar_tiny_a.json")
    produced = REPLAYS["mvar"].outputs(fixture, backend, torch.device("cpu"))
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
