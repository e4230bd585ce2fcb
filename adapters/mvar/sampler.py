"""M-VAR: next-scale prediction with attention inside each scale and Mamba-2 over all scales so far.

Specific to M-VAR: a block has three branches with nine modulation vectors. Attention sees the tokens of its own scale,
in training and in sampling; a Mamba-2 mixer runs over the tokens of all scales so far, in raster order; the
feed-forward follows. There is no KV cache. The official code stores the mixer's inputs and reruns the mixer over all of
them at every scale (cache policy `history`, the reference). The mixer is causal, so carrying its state suffices, and a
step costs only its own tokens (policy `state`). Guidance, sampling and tokenizer are VAR's.

Shapes   B images, R forward rows, l tokens of one scale, L of all scales, C width
Source   M-VAR (arXiv:2411.10433); behaviour of OliverRensu/MVAR at 80768a1
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from arvbench.adapters.mvar.cache import RecurrentCache, RecurrentShape
from arvbench.adapters.mvar.history_cache import HistoryShape
from arvbench.adapters.mvar.mamba2 import Mamba2, MambaConfig, MambaState
from arvbench.adapters.mvar.state_cache import StateShape
from arvbench.adapters.next_scale.blocks import FeedForward, Mask, SelfAttention
from arvbench.adapters.next_scale.cost import StepCost
from arvbench.adapters.next_scale.sampler import NextScaleSampler
from arvbench.adapters.next_scale.smoothing import SmoothSettings
from arvbench.adapters.next_scale.transformer import (
    DEMO_SIZES,
    NextScaleConfig,
    NextScaleTransformer,
    block_diagonal_bias,
    levels,
)
from arvbench.adapters.sampler import Checkpoint, ModelSpec
from arvbench.adapters.schedule import Step
from arvbench.adapters.settings import SamplingSettings
from arvbench.adapters.tokenizers.multiscale_vq import DEMO_TOKENIZER, VqVaeConfig
from arvbench.adapters.work import StepWork
from arvbench.errors import UserError
from arvbench.kernels.block_sparse_attention.reference import Scales
from arvbench.kernels.dispatch import KernelSet


@dataclass(frozen=True, slots=True, kw_only=True)
class MvarConfig(NextScaleConfig):
    """Constructor arguments of the transformer under their official names, and sizes fixed in the official code."""

    d_state: int = 64
    headdim: int = 64
    """Channels of one mixer head; attention heads have their own width."""

    def __post_init__(self) -> None:
        if self.shared_aln:
            raise UserError(
                "M-VAR has no shared adaLN: its blocks need nine modulation vectors where the shared ones are six, and "
                "the official code fails on it as well; use shared_aln=False"
            )

    @property
    def mixer(self) -> MambaConfig:
        """Mixer configuration. Raises UserError unless the head width divides the inner width."""
        return MambaConfig(d_model=self.embed_dim, d_state=self.d_state, headdim=self.headdim)

    @property
    def scale_tokens(self) -> tuple[int, ...]:
        """l of every scale."""
        return tuple(pn * pn for pn in self.patch_nums)


class ScaleAttention(SelfAttention):
    """Attention inside one scale; concatenated scales (in training) do not attend to each other."""

    patch_nums: Tensor

    def __init__(self, config: MvarConfig) -> None:
        super().__init__(config.embed_dim, config.num_heads, l2_norm=config.attn_l2_norm)
        self.scale_tokens = config.scale_tokens
        # Despite its official name, this buffer holds squared patch numbers.
        self.register_buffer("patch_nums", torch.tensor(config.scale_tokens, dtype=torch.int32))

    def each_scale(self, x_RLC: Tensor, kernels: KernelSet, mask: Mask | None) -> Tensor:
        """Attend inside every scale of a whole sequence; (R, L, C). Only scales in `mask`, for a kernel, are read."""
        if isinstance(mask, Scales):
            return cast(Tensor, self(x_RLC, kernels, mask=mask))
        return torch.cat([self(x_RlC, kernels) for x_RlC in x_RLC.split(self.scale_tokens, dim=1)], dim=1)


class MvarBlock(nn.Module):
    """Attention, Mamba-2 and feed-forward, each modulated and gated by the condition."""

    def __init__(self, config: MvarConfig) -> None:
        super().__init__()
        self.norm_eps = config.norm_eps
        self.attn = ScaleAttention(config)
        self.mamba = Mamba2(config.mixer)
        self.ffn = FeedForward(config.embed_dim, config.hidden)
        self.ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(config.embed_dim, 9 * config.embed_dim))

    def modulation(self, cond_RC: Tensor, shared: None) -> Tensor:
        """(R, 1, 9, C): three gates (attention, mixer, feed-forward), three scales, three shifts."""
        modulation_R19C: Tensor = self.ada_lin(cond_RC).view(len(cond_RC), 1, 9, -1)
        return modulation_R19C

    def forward(
        self,
        x_RlC: Tensor,
        modulation_R19C: Tensor,
        kernels: KernelSet,
        *,
        layer: int = 0,
        cache: RecurrentCache | None = None,
        mask: Mask | None = None,
    ) -> Tensor:
        """Run one scale that follows those in `cache`, or (None) the whole sequence; attention needs no bias."""
        gate1, gate2, gate3, scale1, scale2, scale3, shift1, shift2, shift3 = modulation_R19C.unbind(2)

        def mix(history_RTC: Tensor, state: MambaState | None) -> tuple[Tensor, MambaState]:
            h_RTC = kernels.adaln_modulate(history_RTC, scale2, shift2, self.norm_eps)
            mixed: tuple[Tensor, MambaState] = self.mamba(h_RTC, state, kernels)
            return mixed

        h = kernels.adaln_modulate(x_RlC, scale1, shift1, self.norm_eps)
        attended_RlC = self.attn.each_scale(h, kernels, mask) if cache is None else self.attn(h, kernels)
        x_RlC = kernels.adaln_residual(x_RlC, gate1, attended_RlC)
        mixed_RlC = mix(x_RlC, None)[0] if cache is None else cache.mix(layer, x_RlC, mix)
        x_RlC = kernels.adaln_residual(x_RlC, gate2, mixed_RlC)
        h = kernels.adaln_modulate(x_RlC, scale3, shift3, self.norm_eps)
        out_RlC: Tensor = kernels.adaln_residual(x_RlC, gate3, self.ffn(h))
        return out_RlC


class Mvar(NextScaleTransformer):
    """The transformer; state-dict names equal the official files'."""

    config: MvarConfig
    sees_coarser: ClassVar = False

    def block(self) -> nn.Module:
        return MvarBlock(self.config)

    def position_buffers(self) -> dict[str, Tensor]:
        level_1L = levels(self.config.sides)
        # Official files contain the mask, but it is unused: attention splits the sequence instead.
        return {"lvl_1L": level_1L, "attn_bias_for_masking": block_diagonal_bias(level_1L)}

    def constant_buffers(self) -> dict[str, Tensor]:
        scale_tokens = torch.tensor(self.config.scale_tokens, dtype=torch.int32)
        names = [name for name, _ in self.named_buffers() if name.endswith("attn.patch_nums")]
        return super().constant_buffers() | dict.fromkeys(names, scale_tokens)


@dataclass(frozen=True, kw_only=True)  # slots would create a second class and break `super()`
class MvarCost(StepCost):
    """Cost of M-VAR: attention inside a scale, nine modulation vectors, and the mixer's weights."""

    mixer: MambaConfig

    def flops(self, *, rows: int, images: int, new: int, context: int, first: bool) -> int:
        """FLOPs without the mixer, whose work depends on the cache policy."""
        return super().flops(rows=rows, images=images, new=new, context=new, first=first)

    def beyond_the_mean(self, work: StepWork, context: int) -> int:
        """Nothing: `flops` counts attention inside the scale."""
        return 0

    def mixer_flops(self, *, rows: int, tokens: int) -> int:
        """FLOPs of all mixers over `tokens` tokens per row."""
        return self.depth * rows * self.mixer.flops(tokens)

    def weight_bytes(self, *, first: bool) -> int:
        mixer = self.mixer
        fp32 = 3 * mixer.heads + mixer.d_inner  # parameters named in `MvarSampler.keep_fp32`
        mixers = self.depth * ((mixer.parameters - fp32) * self.itemsize + 4 * fp32)
        return super().weight_bytes(first=first) + mixers

    @property
    def _block_launches(self) -> int:
        """Three more than without the mixer: projection in, scan, projection out."""
        return super()._block_launches + 3

    @property
    def _adaln_outputs(self) -> int:
        return (9 * self.depth + 2) * self.width


class MvarSettings(SmoothSettings):
    """`cfg` is the guidance strength at the last scale, ramped up linearly from 0 at the first."""


class MvarSampler(NextScaleSampler):
    """M-VAR behind the sampling interface."""

    family: ClassVar = "mvar"
    transformer_class: ClassVar = Mvar
    # Decays are exponentials of these parameters, with 1 % error in half precision. Autocast also keeps them in fp32.
    keep_fp32: ClassVar = {
        "transformer": (*NextScaleSampler.keep_fp32["transformer"], "A_log", "dt_bias", "D", "norm"),
        "tokenizer": NextScaleSampler.keep_fp32["tokenizer"],
    }
    memory: ClassVar = ("recurrent state",)
    official_cache: ClassVar = "history"
    default_cache: ClassVar = "state"

    @classmethod
    def adapt_spec(cls, spec: ModelSpec, transformer: Mapping[str, Tensor]) -> ModelSpec:
        """Set `attn_l2_norm` from the file: official models differ, and only their files show it."""
        l2_norm = "blocks.0.attn.scale_mul_1H11" in transformer
        return replace(spec, transformer=replace(spec.transformer, attn_l2_norm=l2_norm))

    def cache_shape(self, policy: str, settings: SamplingSettings, *, batch: int) -> RecurrentShape:
        config: MvarConfig = self.spec.transformer
        kind = HistoryShape if policy == "history" else StateShape
        return kind(
            layers=config.depth,
            rows=self.rows(settings, batch),
            mixer=config.mixer,
            dtype=self.dtype,
            device=self.device,
        )

    def steps(self, policy: str, settings: SamplingSettings, *, batch: int) -> Sequence[Step]:
        """Attention sees one scale; the mixer runs over all tokens so far or (policy `state`) the new ones."""
        return [
            replace(
                step,
                context_tokens=step.new_tokens,
                flops=step.flops
                + self.cost.mixer_flops(
                    rows=step.rows, tokens=step.cached_tokens if policy == "history" else step.new_tokens
                ),
            )
            for step in super().steps(policy, settings, batch=batch)
        ]

    @cached_property
    def cost(self) -> MvarCost:
        config: MvarConfig = self.spec.transformer
        return MvarCost(**asdict(super().cost), mixer=config.mixer)


def _official(depth: int, *, attn_l2_norm: bool) -> ModelSpec:
    return ModelSpec(
        name=f"mvar-d{depth}",
        sampler=MvarSampler,
        transformer=MvarConfig(depth=depth, embed_dim=64 * depth, num_heads=depth, attn_l2_norm=attn_l2_norm),
        tokenizer=VqVaeConfig(),
        settings=MvarSettings(cfg=1.5, top_k=900, top_p=0.96),
        settings_source="OliverRensu/MVAR README at 80768a1, sampling section",
        checkpoint=Checkpoint(
            transformer_file=f"d{depth}.pth",
            tokenizer_file="vae_ch160v4096z32.pth",
            hub_repo="OliverRen/M-VAR",
            tokenizer_repo="FoundationVision/var",
            transformer_nesting=(("trainer", "mvar_wo_ddp"),),
            tokenizer_nesting=(("trainer", "vae_local"),),
        ),
    )


# attn_l2_norm applies to random weights; weight files override it (`adapt_spec`). The README asks for False with d16
# and d20 and does not mention d12; the official default is True.
MVAR_D12 = _official(12, attn_l2_norm=False)
MVAR_D16 = _official(16, attn_l2_norm=False)
MVAR_D20 = _official(20, attn_l2_norm=False)
MVAR_D24 = _official(24, attn_l2_norm=True)
# The largest file was published as d30.pth and is meant to be d32.pth. Its shapes identify the model: loading it as
# the wrong one fails with the name of the model that fits.
MVAR_D30 = _official(30, attn_l2_norm=True)
MVAR_D32 = _official(32, attn_l2_norm=True)

DEMO = ModelSpec(
    name="demo/mvar",
    sampler=MvarSampler,
    transformer=MvarConfig(depth=4, embed_dim=64, num_heads=2, d_state=16, headdim=32, **DEMO_SIZES),
    tokenizer=DEMO_TOKENIZER,
    settings=MvarSettings(cfg=0.5, top_p=0.98),
    settings_source="chosen on the trained demo model",
    demo=True,
)
