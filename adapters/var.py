"""VAR: next-scale prediction with a KV cache over all coarser scales.

What is particular to this family: every step predicts all tokens of one scale from the accumulated f_hat of the scales
before it, resized to that scale; attention sees all cached scales without a mask; guidance ramps up linearly over the
scales; `more_smooth` replaces the sampled codes by a Gumbel-softmax mixture of code vectors.

Shapes   B images, R forward rows (conditional, then unconditional), S scales, l tokens of one scale, L of all scales,
         C width, V codebook entries, K code channels, h w latent sides
Source   VAR (arXiv:2404.02905); behaviour of FoundationVision/VAR at 78b9539
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arvbench.adapters.base import (
    Backend,
    Checkpoint,
    ModelSpec,
    Observer,
    Sampler,
    Samples,
    SamplingSettings,
    SilentObserver,
    StepOutput,
    check_settings,
    to_uint8,
)
from arvbench.adapters.cache import CACHE_POLICIES
from arvbench.adapters.cache.base import CacheShape, KVCache
from arvbench.adapters.common.cost import StepCost
from arvbench.adapters.common.transformer import AdaLNBlock, HeadNorm
from arvbench.adapters.sampling import Noise, cfg_mix, filter_logits, gumbel_softmax
from arvbench.adapters.schedule import Schedule, Step
from arvbench.adapters.tokenizers.multiscale_vq import VqVae, VqVaeConfig
from arvbench.errors import ContractError
from arvbench.kernels.dispatch import KernelSet, select

_PATCH_NUMS_256 = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class VarConfig:
    """Constructor arguments of the transformer under their official names."""

    depth: int
    embed_dim: int
    num_heads: int
    num_classes: int = 1000
    mlp_ratio: float = 4.0
    norm_eps: float = 1e-6
    shared_aln: bool = False
    attn_l2_norm: bool = True
    cond_drop_rate: float = 0.1
    patch_nums: tuple[int, ...] = _PATCH_NUMS_256
    vocab_size: int = 4096
    code_dim: int = 32
    """Channels of the tokenizer's code vectors."""

    @property
    def tokens(self) -> int:
        """L: tokens of all scales."""
        return sum(pn * pn for pn in self.patch_nums)

    @property
    def hidden(self) -> int:
        return round(self.embed_dim * self.mlp_ratio)


class VarSettings(SamplingSettings):
    """`cfg` is the strength at the last scale; it ramps up linearly from 0 at the first."""

    more_smooth: bool = False
    """Mix code vectors by Gumbel-softmax instead of taking the sampled ones; for pictures, not for FID."""


class Var(nn.Module):
    """The transformer; state-dict names equal the official files'."""

    lvl_1L: Tensor
    attn_bias_for_masking: Tensor

    def __init__(self, config: VarConfig) -> None:
        super().__init__()
        self.config = config
        width = config.embed_dim
        self.word_embed = nn.Linear(config.code_dim, width)
        self.class_emb = nn.Embedding(config.num_classes + 1, width)
        self.pos_start = nn.Parameter(torch.empty(1, 1, width))
        self.pos_1LC = nn.Parameter(torch.empty(1, config.tokens, width))
        self.lvl_embed = nn.Embedding(len(config.patch_nums), width)
        if config.shared_aln:
            self.shared_ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.blocks = nn.ModuleList(
            AdaLNBlock(
                width,
                config.num_heads,
                config.hidden,
                l2_norm=config.attn_l2_norm,
                shared_aln=config.shared_aln,
                norm_eps=config.norm_eps,
            )
            for _ in range(config.depth)
        )
        self.head_nm = HeadNorm(width)
        self.head = nn.Linear(width, config.vocab_size)
        for name, buffer in self._position_buffers().items():
            self.register_buffer(name, buffer)

    def _position_buffers(self) -> dict[str, Tensor]:
        levels = [level for level, pn in enumerate(self.config.patch_nums) for _ in range(pn * pn)]
        level_1L = torch.tensor([levels])
        # Training mask: a token sees its own scale and all coarser ones.
        hidden_LL = level_1L.transpose(0, 1) < level_1L
        bias_11LL = torch.zeros(hidden_LL.shape).masked_fill_(hidden_LL, -torch.inf)[None, None]
        return {"lvl_1L": level_1L, "attn_bias_for_masking": bias_11LL}

    def constant_buffers(self) -> dict[str, Tensor]:
        """Buffers whose values the configuration decides; official files carry them too."""
        zero_key_bias = torch.zeros(self.config.embed_dim)
        return self._position_buffers() | {
            f"blocks.{i}.attn.zero_k_bias": zero_key_bias for i in range(self.config.depth)
        }

    def positions(self) -> Tensor:
        """(1, L, C): scale and position embedding of every token."""
        return self.lvl_embed(self.lvl_1L) + self.pos_1LC

    def modulations(self, cond_RC: Tensor) -> tuple[list[Tensor], Tensor]:
        """What the condition decides, once per sampling call: per block (R, 1, 6, C), and (R, 1, 2, C) of the head."""
        shared = self.shared_ada_lin(cond_RC).view(len(cond_RC), 1, 6, -1) if self.config.shared_aln else None
        blocks = [cast(AdaLNBlock, block).modulation(cond_RC, shared) for block in self.blocks]
        return blocks, self.head_nm.modulation(cond_RC.to(self.head.weight.dtype))

    def logits(self, x_RlC: Tensor, head_R12C: Tensor, kernels: KernelSet) -> Tensor:
        """(R, l, V) fp32."""
        scale, shift = head_R12C.unbind(2)
        h = kernels.adaln_modulate(x_RlC.to(self.head.weight.dtype), scale, shift, self.config.norm_eps)
        return self.head(h).float()

    def forward(self, labels_B: Tensor, codes_BLK: Tensor, kernels: KernelSet) -> Tensor:
        """Teacher-forced logits (B, L, V): one pass under the block-causal mask.

        `codes_BLK` is the tokenizer's `teacher_forcing_input`, (B, L - l_first, K).
        """
        cond_BC = self.class_emb(labels_B)
        first = self.config.patch_nums[0] ** 2
        start = cond_BC.unsqueeze(1) + self.pos_start.expand(-1, first, -1)
        x = torch.cat((start, self.word_embed(codes_BLK.to(start.dtype))), dim=1) + self.positions()
        blocks, head = self.modulations(cond_BC)
        bias = self.attn_bias_for_masking.to(x.dtype)
        for block, modulation in zip(self.blocks, blocks, strict=True):
            x = block(x, modulation, kernels, bias_llT=bias)
        return self.logits(x, head, kernels)


class VarSampler(Sampler):
    """VAR behind the sampling interface."""

    # Official code computes logits in fp32 whatever the autocast dtype; the residual pyramid adds up ten scales.
    keep_fp32: ClassVar = {"transformer": ("head_nm", "head"), "tokenizer": ("quantize",)}
    default_cache: ClassVar[Mapping[Backend, str]] = {"reference": "grow", "optimized": "static"}

    @property
    def transformer(self) -> Var:
        return cast(Var, self._modules["transformer"])

    @property
    def tokenizer(self) -> VqVae:
        return cast(VqVae, self._modules["tokenizer"])

    @staticmethod
    def build_modules(spec: ModelSpec) -> dict[str, nn.Module]:
        return {"transformer": Var(spec.transformer), "tokenizer": VqVae(spec.tokenizer)}

    # ---- plan ----------------------------------------------------------------------------------------------------

    def schedule(self, settings: SamplingSettings, *, batch: int) -> Schedule:
        config: VarConfig = self.spec.transformer
        rows = self._rows(settings, batch)
        cache = self._cache_shape(settings, batch)
        cost = StepCost(
            depth=config.depth,
            width=config.embed_dim,
            hidden=config.hidden,
            vocab_size=config.vocab_size,
            code_dim=config.code_dim,
            shared_aln=config.shared_aln,
            itemsize=self.dtype.itemsize,
        )
        steps, seen = [], 0
        for index, pn in enumerate(config.patch_nums):
            new, seen = pn * pn, seen + pn * pn
            steps.append(
                Step(
                    index=index,
                    kind="scale",
                    side=(pn, pn),
                    new_tokens=new,
                    context_tokens=seen,
                    cached_tokens=seen,
                    rows=rows,
                    flops=cost.flops(rows=rows, images=batch, new=new, context=seen, first=index == 0),
                    bytes_moved=cost.weight_bytes(first=index == 0)
                    + cache.bytes_of(seen)
                    + cache.bytes_of(new)
                    + 4 * rows * new * config.vocab_size,
                    cache_bytes=cache.bytes_of(seen),
                )
            )
        return Schedule(steps=tuple(steps), images=batch, decode_flops=batch * self._decode_flops_per_image)

    def make_cache(self, policy: str | None, settings: SamplingSettings, *, batch: int) -> KVCache:
        return CACHE_POLICIES[policy or self.default_cache[self.backend]](self._cache_shape(settings, batch))

    def _rows(self, settings: SamplingSettings, batch: int) -> int:
        # At strength 0 the unconditional rows never reach the logits; only the official way computes them regardless.
        return batch if settings.cfg == 0 and self.backend == "optimized" else 2 * batch

    def _cache_shape(self, settings: SamplingSettings, batch: int) -> CacheShape:
        config: VarConfig = self.spec.transformer
        return CacheShape(
            layers=config.depth,
            rows=self._rows(settings, batch),
            heads=config.num_heads,
            head_dim=config.embed_dim // config.num_heads,
            capacity_tokens=config.tokens,
            dtype=self.dtype,
            device=self.device,
        )

    @cached_property
    def _decode_flops_per_image(self) -> int:
        from torch.utils.flop_counter import FlopCounterMode

        config: VqVaeConfig = self.spec.tokenizer
        side = config.v_patch_nums[-1]
        with torch.device("meta"), torch.no_grad():
            twin = VqVae(config)
            with FlopCounterMode(display=False) as counter:
                twin.decode_f_hat(torch.empty(1, config.z_channels, side, side))
        return counter.get_total_flops()

    # ---- sampling ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self,
        labels: Sequence[int] | Tensor,
        settings: SamplingSettings,
        *,
        noise: Noise,
        cache: KVCache | None = None,
        observer: Observer | None = None,
    ) -> Samples:
        check_settings(self.spec, settings)
        labels_B = self.check_labels(labels)
        observer = observer or SilentObserver()
        if cache is None:
            cache = self.make_cache(None, settings, batch=len(labels_B))
        elif cache.shape != (needed := self._cache_shape(settings, len(labels_B))):
            raise ContractError(f"this call needs a cache of {needed}, got one of {cache.shape}")
        cache.reset()
        tokens, f_hat = self._generate(labels_B, settings, noise, cache, observer)
        observer.decode_begin()
        decoded = self._to_unit_range(self.tokenizer.decode_f_hat(f_hat))
        observer.decode_end(decoded)
        images = to_uint8(decoded, settings.uint8_rule)
        return Samples(images=images, decoded=decoded, tokens=tuple(tokens), labels=labels_B)

    def _generate(
        self, labels_B: Tensor, settings: SamplingSettings, noise: Noise, cache: KVCache, observer: Observer
    ) -> tuple[list[Tensor], Tensor]:
        """The autoregressive loop: tokens per scale, and the final f_hat (B, K, h, w)."""
        model, quantize, kernels = self.transformer, self.tokenizer.quantize, self._kernels
        schedule = self.schedule(settings, batch=len(labels_B))
        guided = schedule.steps[0].rows > len(labels_B)
        # The first step begins here: what the condition decides is computed once, and belongs to its cost.
        observer.step_begin(schedule.steps[0])
        null_B = torch.full_like(labels_B, self.spec.num_classes)
        cond_RC = model.class_emb(torch.cat((labels_B, null_B)) if guided else labels_B)
        blocks, head = model.modulations(cond_RC)
        positions_1LC = model.positions()
        size = schedule.steps[-1].side
        f_hat = torch.zeros(len(labels_B), self.spec.tokenizer.z_channels, *size, device=self.device)
        x_RlC = cond_RC.unsqueeze(1) + model.pos_start
        tokens: list[Tensor] = []
        for step in schedule:
            if step.index > 0:
                observer.step_begin(step)
                codes_BlK = F.interpolate(f_hat, size=step.side, mode="area").flatten(2).transpose(1, 2)
                x_BlC = model.word_embed(codes_BlK.to(self.dtype))
                x_RlC = x_BlC.repeat(2, 1, 1) if guided else x_BlC
            before = step.context_tokens - step.new_tokens
            x_RlC = x_RlC + positions_1LC[:, before : step.context_tokens]
            for layer, (block, modulation) in enumerate(zip(model.blocks, blocks, strict=True)):
                x_RlC = block(x_RlC, modulation, kernels, layer=layer, cache=cache)
            logits_RlV = model.logits(x_RlC, head, kernels)
            progress = step.index / (len(schedule) - 1)
            logits_BlV = cfg_mix(logits_RlV, settings.cfg * progress) if guided else logits_RlV
            filtered_BlV = filter_logits(logits_BlV, settings.top_k, settings.top_p)
            tokens.append(noise.tokens(filtered_BlV, step.index))
            if getattr(settings, "more_smooth", False):
                codes = self._smooth_codes(filtered_BlV, progress, noise, step)
            else:
                codes = quantize.lookup(tokens[-1], step.side)
            f_hat = f_hat + quantize.contribution(codes, step.index, len(schedule), size)
            observer.step_end(
                step, StepOutput(logits_pre_cfg=logits_RlV, logits=logits_BlV, tokens=tokens[-1], state=f_hat)
            )
        return tokens, f_hat

    def _smooth_codes(self, filtered_BlV: Tensor, progress: float, noise: Noise, step: Step) -> Tensor:
        """Code vectors (B, K, ph, pw) mixed by a Gumbel-softmax that hardens towards the last scale."""
        temperature = max(0.27 * (1 - 0.95 * progress), 0.005)
        exponential_BlV = noise.exponential(filtered_BlV, step.index)
        weights_BlV = gumbel_softmax(filtered_BlV * (1 + progress), exponential_BlV, temperature)
        mixed_BlK = weights_BlV @ self.tokenizer.quantize.embedding.weight
        return mixed_BlK.transpose(1, 2).unflatten(2, step.side)

    # ---- tokenizer and training ----------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.tokenizer.encode(images.to(self.device))

    @torch.no_grad()
    def decode(self, tokens: Sequence[Tensor]) -> Tensor:
        return self._to_unit_range(self.tokenizer.decode(tokens))

    @staticmethod
    def _to_unit_range(images: Tensor) -> Tensor:
        return images.float().add(1).mul(0.5)

    @torch.no_grad()
    def teacher_forced(self, tokens: Sequence[Tensor], labels: Sequence[int] | Tensor) -> Tensor:
        codes_BLK = self.tokenizer.quantize.teacher_forcing_input(tokens)
        return self.transformer(self.check_labels(labels), codes_BLK, self._kernels)

    def loss(self, tokens: Sequence[Tensor], labels: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Cross-entropy averaged over all tokens of all scales (natural log)."""
        labels_B = self.check_labels(labels)
        if self.transformer.training and self.transformer.config.cond_drop_rate > 0:
            u_B = torch.rand(len(labels_B), generator=generator).to(self.device)
            labels_B = labels_B.masked_fill(u_B < self.transformer.config.cond_drop_rate, self.spec.num_classes)
        with torch.no_grad():
            codes_BLK = self.tokenizer.quantize.teacher_forcing_input(tokens)
        # Triton kernels are forward only.
        logits_BLV = self.transformer(labels_B, codes_BLK, select("reference", self.device))
        return F.cross_entropy(logits_BLV.flatten(0, 1), torch.cat(tuple(tokens), dim=1).flatten())


# ---- the models --------------------------------------------------------------------------------------------------


def var_spec(
    name: str,
    transformer: VarConfig,
    tokenizer: VqVaeConfig,
    settings: VarSettings,
    settings_source: str,
    *,
    checkpoint: Checkpoint | None = None,
    demo: bool = False,
) -> ModelSpec:
    """The spec of a VAR; what follows from the two configurations is filled in."""
    return ModelSpec(
        name=name,
        family="var",
        sampler=VarSampler,
        image_px=transformer.patch_nums[-1] * tokenizer.downsample,
        num_classes=transformer.num_classes,
        vocab_size=tokenizer.vocab_size,
        steps=len(transformer.patch_nums),
        tokens=transformer.tokens,
        transformer=transformer,
        tokenizer=tokenizer,
        settings=settings,
        settings_source=settings_source,
        checkpoint=checkpoint,
        demo=demo,
    )


def _official(depth: int, patch_nums: tuple[int, ...] = _PATCH_NUMS_256, *, shared_aln: bool = False) -> ModelSpec:
    return var_spec(
        f"var-d{depth}",
        VarConfig(depth=depth, embed_dim=64 * depth, num_heads=depth, shared_aln=shared_aln, patch_nums=patch_nums),
        VqVaeConfig(v_patch_nums=patch_nums),
        VarSettings(cfg=1.5, top_k=900, top_p=0.96),
        "FoundationVision/VAR README at 78b9539, model zoo and sampling section",
        checkpoint=Checkpoint(
            transformer_file=f"var_d{depth}.pth",
            tokenizer_file="vae_ch160v4096z32.pth",
            hub_repo="FoundationVision/var",
            transformer_nesting=(("trainer", "var_wo_ddp"),),
            tokenizer_nesting=(("trainer", "vae_local"),),
        ),
    )


VAR_D16 = _official(16)
VAR_D20 = _official(20)
VAR_D24 = _official(24)
VAR_D30 = _official(30)
VAR_D36 = _official(36, (1, 2, 3, 4, 6, 9, 13, 18, 24, 32), shared_aln=True)
"""512 px."""

_DEMO_PATCH_NUMS = (1, 2, 3, 4, 6, 8)

DEMO = var_spec(
    "demo/var",
    VarConfig(
        depth=4,
        embed_dim=96,
        num_heads=3,
        num_classes=10,
        shared_aln=True,
        patch_nums=_DEMO_PATCH_NUMS,
        vocab_size=256,
        code_dim=16,
    ),
    VqVaeConfig(
        vocab_size=256, z_channels=16, ch=32, ch_mult=(1, 1, 1), num_res_blocks=1, v_patch_nums=_DEMO_PATCH_NUMS
    ),
    VarSettings(cfg=0.5, top_p=0.98),
    "chosen on the trained demo model",
    demo=True,
)
