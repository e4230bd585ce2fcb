"""The two training checkpoints of HMAR, and the merged file for its sampler.

Training has two stages, each with its own checkpoint: next-scale prediction (NSP) uses the names of VAR; masked
prediction (MP) starts from NSP, trains copies of the last blocks and the head, and freezes the rest.

Source   behaviour of NVlabs/HMAR at 595a9df
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from arvbench.adapters.checkpoints import MisfitError, load_strict
from arvbench.adapters.common.meta import on_meta
from arvbench.adapters.hmar.transformer import Hmar, HmarConfig
from arvbench.adapters.next_scale.transformer import NextScaleTransformer
from arvbench.errors import CheckpointError

TRAINING_NESTING = (("trainer", "transformer_wo_ddp"),)
"""Key paths of the transformer in both training checkpoints, tried after a flat state dict."""

Stage = Literal["nsp", "mp"]

_OWN = {"nsp": "ns", "mp": "mask"}
"""Stage -> prefix of the blocks and the head trained only in that stage."""
_LISTED = 3


class MaskedPrediction(NextScaleTransformer):
    """Module saved by the second training stage; only its names and shapes are used."""

    def add_blocks(self) -> None:
        super().add_blocks()
        width = self.config.embed_dim
        self.word_embed = nn.Linear(self.config.code_dim, width, bias=False)
        self.word_embed_bias = nn.Parameter(torch.empty(width))
        self.mask_embed = nn.Embedding(1, width)


def training_module(config: HmarConfig, stage: Stage) -> NextScaleTransformer:
    """Build a module with the names and shapes of a stage's checkpoint, without allocating memory."""
    kind = NextScaleTransformer if stage == "nsp" else MaskedPrediction
    return on_meta(lambda: kind(config))


def stage_of(tensors: Iterable[str], config: HmarConfig) -> Stage | None:
    """Return the stage whose checkpoints contain these names, for any number of blocks; None for neither stage."""
    found = _kinds(tensors)
    stages: tuple[Stage, ...] = ("nsp", "mp")
    return next((stage for stage in stages if found == _kinds(training_module(config, stage).state_dict())), None)


def _kinds(names: Iterable[str]) -> set[str]:
    return {re.sub(r"^blocks\.\d+\.", "", name) for name in names}


def merged_name(name: str, stage: Stage, config: HmarConfig) -> str:
    """Return the name in the merged file of the tensor `name` from a training checkpoint."""
    shared = config.depth - config.n_layers_train
    if block := re.fullmatch(r"blocks\.(\d+)\.(.+)", name):
        number = int(block[1])
        if number < shared:
            return f"base_{name}"
        return f"{_OWN[stage]}_blocks.{number - shared}.{block[2]}"
    if name.startswith(("head.", "head_nm.")):
        return f"{_OWN[stage]}_{name}"
    return "word_embed_bias" if name == "word_embed.bias" else name


def merge_stages(
    next_scale: Mapping[str, Tensor], masked: Mapping[str, Tensor], config: HmarConfig
) -> dict[str, Tensor]:
    """Merge the state dicts of both stages into a state dict of `Hmar`, without copies.

    Raises MisfitError for names or shapes that do not fit the stage, CheckpointError when a shared tensor differs
    between the files, which then come from different training runs.
    """
    ours = {merged_name(k, "nsp", config): t for k, t in _checked(next_scale, "nsp", config).items()}
    theirs = {merged_name(k, "mp", config): t for k, t in _checked(masked, "mp", config).items()}
    if changed := [name for name in ours if name in theirs and not torch.equal(ours[name], theirs[name])]:
        more = f" and {len(changed) - _LISTED} more" if len(changed) > _LISTED else ""
        raise CheckpointError(
            "the NSP and the MP checkpoint are not from one training: the second stage leaves shared tensors "
            f"unchanged, but they differ in {', '.join(changed[:_LISTED])}{more}"
        )
    merged = ours | theirs
    load_strict(on_meta(lambda: Hmar(config)), merged, source="the merged checkpoint")
    return merged


def _checked(tensors: Mapping[str, Tensor], stage: Stage, config: HmarConfig) -> Mapping[str, Tensor]:
    if any(name.startswith("base_blocks.") for name in tensors):
        raise MisfitError(f"the {stage.upper()} checkpoint is a merged HMAR file already: use it as weights")
    if ("mask_embed.weight" in tensors) != (stage == "mp"):
        other = "masked prediction (MP)" if stage == "nsp" else "next-scale prediction (NSP)"
        raise MisfitError(f"the {stage.upper()} checkpoint is one of {other}: are --nsp and --mp swapped?")
    load_strict(training_module(config, stage), tensors, source=f"the {stage.upper()} checkpoint")
    return tensors
