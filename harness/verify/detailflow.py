"""Parts of DetailFlow's fixtures that no other family has: settings, and pictures of the first tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from arvbench.adapters.detailflow.sampler import DetailFlowSettings
from arvbench.adapters.detailflow.tokenizer import DetailFlowTokenizer
from arvbench.adapters.token_grid.sequence import SequenceSampler
from arvbench.harness.verify.fixture import Fixture
from arvbench.harness.verify.replay import Outputs, Run
from arvbench.harness.verify.token_grid import NO_EFFECT as NO_EFFECT_ON_GRIDS

NO_EFFECT = NO_EFFECT_ON_GRIDS | {"correction_training"}


def run_settings(run: Run) -> DetailFlowSettings:
    """Return our settings for a run's official arguments; top_k = 1 leaves the most likely token, as greedy runs do."""
    return DetailFlowSettings(
        cfg=run["cfg_scale"],
        gradual_cfg=run["gradual_cfg"],
        temperature=run["temperature"],
        top_k=(run["top_k"] or None) if run["sample_logits"] else 1,
        top_p=run["top_p"],
    )


@torch.inference_mode()
def run_image(sampler: SequenceSampler, fixture: Fixture, tokens_BN: Tensor) -> Tensor:
    """Decode all tokens of a run."""
    return sampler.tokenizer.decode(tokens_BN)


@torch.inference_mode()
def tokenizer_outputs(sampler: SequenceSampler, fixture: Fixture) -> Outputs:
    """Return the outputs of the tokenizer; the preview has a side of its own."""
    tokenizer = sampler.tokenizer
    assert isinstance(tokenizer, DetailFlowTokenizer)
    features_BD1N = tokenizer.features(fixture.inputs["image"].to(sampler.device))
    ids, known = tokenizer.quantize.nearest(features_BD1N), fixture.inputs["tf_ids"].to(sampler.device)
    preview = fixture.description["inputs"]["preview"]
    first = known[:, : preview["tokens"]]
    return {
        "vq.pre_quant": features_BD1N[:, :, 0].transpose(1, 2),
        "vq.ids": ids,
        "vq.recon": tokenizer.decode(ids),
        "vq.dec_tf": tokenizer.decode(known),
        "vq.preview": tokenizer.restore(tokenizer.quantize.lookup(first, (1, first.shape[1])), preview["img_size"]),
    }
