"""The table of replays: one entry per kind of fixture, with its specific settings and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from arvbench.adapters.dar.sampler import DarSampler, DarSettings
from arvbench.adapters.dar.tokenizer import DarTokenizerConfig
from arvbench.adapters.detailflow.sampler import DetailFlowConfig, DetailFlowSampler, DetailFlowSettings
from arvbench.adapters.detailflow.tokenizer import DetailFlowTokenizerConfig
from arvbench.adapters.flexvar.sampler import FlexVarConfig, FlexVarSampler
from arvbench.adapters.flowar.sampler import FlowArSampler, FlowArSettings
from arvbench.adapters.flowar.transformer import FlowArConfig
from arvbench.adapters.himar.sampler import HiMarSampler
from arvbench.adapters.himar.transformer import HiMarConfig
from arvbench.adapters.hmar.sampler import HmarSettings
from arvbench.adapters.hmar.transformer import HmarConfig
from arvbench.adapters.latents.sampler import LatentSettings
from arvbench.adapters.llamagen import LlamaGenSampler
from arvbench.adapters.mar.sampler import MarSampler
from arvbench.adapters.mar.transformer import MarConfig
from arvbench.adapters.methods.code import CodeSampler, CodeSettings
from arvbench.adapters.methods.fastvar import FastVarSettings
from arvbench.adapters.mvar.sampler import MvarConfig, MvarSampler, MvarSettings
from arvbench.adapters.nar import NarConfig, NarSampler
from arvbench.adapters.next_scale.smoothing import SmoothSettings
from arvbench.adapters.par import ParConfig, ParSampler
from arvbench.adapters.token_grid.llama import LlamaConfig
from arvbench.adapters.tokenizers.vq import VqConfig
from arvbench.adapters.var import VarConfig, VarSampler, VarSettings
from arvbench.adapters.xar.sampler import XarSampler
from arvbench.adapters.xar.transformer import XarConfig
from arvbench.errors import UnknownName
from arvbench.harness.verify import (
    code,
    compression,
    dar,
    detailflow,
    flexvar,
    flowar,
    himar,
    hmar,
    mar,
    mvar,
    next_scale,
    xar,
)
from arvbench.harness.verify.next_scale import NextScaleReplay
from arvbench.harness.verify.replay import Replay, Run
from arvbench.harness.verify.sampler_unit import SamplerUnitReplay
from arvbench.harness.verify.token_grid import TokenGridReplay
from arvbench.harness.verify.token_sequence import SequenceReplay


def _smooth_settings(kind: type[SmoothSettings], run: Run) -> SmoothSettings:
    """Return settings of VAR or M-VAR for official arguments, in which 0 switches a filter off."""
    return kind(
        cfg=run["cfg"],
        top_k=run["top_k"] or None,
        top_p=run["top_p"] or None,
        more_smooth=run.get("more_smooth", False),
    )


# Before the first tokens fill it, M-VAR's state is nearly empty, and the RMSNorm after it amplifies rounding.
_MVAR_LOGITS = ("logits_pre_cfg", "logits_cfg", "tf.logits", "tf.logits_uncond")

REPLAYS: Mapping[str, Replay] = {
    "var": NextScaleReplay(
        sampler=VarSampler,
        transformer=VarConfig,
        spec_settings=lambda _: VarSettings(cfg=0),
        run_settings=partial(_smooth_settings, VarSettings),
    ),
    "mvar": NextScaleReplay(
        sampler=MvarSampler,
        transformer=MvarConfig,
        spec_settings=lambda _: MvarSettings(cfg=0),
        run_settings=partial(_smooth_settings, MvarSettings),
        watched=mvar.WATCHED,
        collect=mvar.scale_and_mixer_outputs,
        # Fixtures with all weights keep the mixers of the greedy run only.
        unnamed_run="greedy",
        tolerances=(*((end, 2e-3) for end in _MVAR_LOGITS), *next_scale.TOLERANCES),
    ),
    "hmar": NextScaleReplay(
        sampler=hmar.WatchedHmarSampler,
        transformer=HmarConfig,
        spec_settings=lambda _: HmarSettings(cfg=0),
        run_settings=hmar.run_settings,
        collect=hmar.both_predictions,
        passes=(hmar.training_passes, next_scale.residual_tokenizer),
    ),
    "flexvar": NextScaleReplay(
        sampler=FlexVarSampler,
        transformer=FlexVarConfig,
        tokenizer=VqConfig,
        no_effect=next_scale.NO_EFFECT | flexvar.TRAINING_ONLY,
        spec_settings=flexvar.spec_settings,
        run_settings=flexvar.run_settings,
        watched="word_embed",
        collect=flexvar.resized_scale_outputs,
        passes=(next_scale.training_pass, flexvar.vq_tokenizer),
    ),
    "llamagen": TokenGridReplay(sampler=LlamaGenSampler, transformer=LlamaConfig),
    "nar": TokenGridReplay(sampler=NarSampler, transformer=NarConfig),
    "par": TokenGridReplay(sampler=ParSampler, transformer=ParConfig, in_generation_order=True),
    "xar": xar.XarReplay(
        sampler=XarSampler,
        transformer=XarConfig,
        spec_settings=lambda _: LatentSettings(cfg=1, num_steps=1),
        run_settings=xar.run_settings,
        watched="z_proj|pred",
    ),
    "flowar": flowar.FlowArReplay(
        sampler=FlowArSampler,
        transformer=FlowArConfig,
        spec_settings=lambda _: FlowArSettings(cfg=2, num_steps=2, guidance=1),
        run_settings=flowar.run_settings,
        watched=r"flownet\.(input_proj|final_layer|cond_embed)",
    ),
    "mar": mar.MarReplay(
        sampler=MarSampler,
        transformer=MarConfig,
        no_effect=mar.NO_EFFECT,
        spec_settings=mar.spec_settings,
        run_settings=mar.run_settings,
        watched=f"{mar.HEAD}|encoder_norm",
        blocks=r"decoder_blocks\.\d+",
    ),
    "himar": himar.HiMarReplay(
        sampler=HiMarSampler,
        transformer=HiMarConfig,
        no_effect=himar.NO_EFFECT,
        spec_settings=himar.spec_settings,
        run_settings=himar.run_settings,
        watched=himar.WATCHED,
    ),
    "detailflow": SequenceReplay(
        sampler=DetailFlowSampler,
        transformer=DetailFlowConfig,
        tokenizer=DetailFlowTokenizerConfig,
        no_effect=detailflow.NO_EFFECT,
        spec_settings=lambda _: DetailFlowSettings(cfg=2),
        run_settings=detailflow.run_settings,
        run_image=detailflow.run_image,
        tokenizer_outputs=detailflow.tokenizer_outputs,
    ),
    "dar": dar.DarReplay(
        sampler=DarSampler,
        transformer=LlamaConfig,
        tokenizer=DarTokenizerConfig,
        fixed=dar.FIXED,
        spec_settings=lambda _: DarSettings(cfg=1),
        run_settings=dar.run_settings,
        run_image=dar.run_image,
        tokenizer_outputs=dar.tokenizer_outputs,
    ),
    "sampler_unit": SamplerUnitReplay(),
    "code": code.CodeReplay(
        sampler=CodeSampler,
        transformer=VarConfig,
        spec_settings=lambda _: CodeSettings(cfg=0, draft_steps=1),
        run_settings=code.run_settings,
        collect=code.both_models_outputs,
        passes=(next_scale.residual_tokenizer,),
    ),
    "scalekv": compression.ScaleKvReplay(
        sampler=VarSampler,
        transformer=VarConfig,
        spec_settings=lambda _: VarSettings(cfg=0),
        run_settings=partial(_smooth_settings, VarSettings),
    ),
    "scalekv_unit": compression.ScaleKvUnitReplay(),
    "fastvar": compression.FastVarReplay(
        sampler=compression.RecordedFastVar,
        transformer=VarConfig,
        spec_settings=lambda _: FastVarSettings(cfg=0),
        run_settings=compression.fastvar_settings,
    ),
    "fastvar_unit": compression.FastVarUnitReplay(),
    "hack_unit": compression.HackUnitReplay(),
}
"""Kind of fixture -> its replay."""


def replay_of(kind: str) -> Replay:
    """Return the replay of a kind of fixture. Raises UnknownName."""
    if kind not in REPLAYS:
        raise UnknownName("fixture kind", kind, REPLAYS)
    return REPLAYS[kind]
