"""Sampling of LlamaGen, NAR and PAR: one token map, drawn pass by pass; each pass feeds the tokens of the previous one.

The families differ in token order, tokens per pass, and the output that predicts each token (`Pass`). Attention needs
no mask while sampling: a pass attends to the whole cache, which contains the tokens of earlier passes and its own. The
official masks, over slots in raster order, have this effect.

Shapes   B images, R forward rows (conditional, then unconditional), l tokens of one pass, L tokens fed in training,
         N tokens of an image, V codebook entries, P rotation pairs
Source   behaviour of FoundationVision/LlamaGen at ce98ec4, ThisisBillhe/NAR at 225c1fb, Epiphqny/PAR at d96acea
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor

from arvbench.adapters.cache import CACHE_POLICIES
from arvbench.adapters.cache.policy import CacheShape, KVCache, TokenOrder
from arvbench.adapters.cache.request import read_request
from arvbench.adapters.call import SamplingCall, StepOutput
from arvbench.adapters.drawing import Distribution, draw_tokens, sample_rule
from arvbench.adapters.pixels import to_unit_range
from arvbench.adapters.sampler import Checkpoint, ModelSizes, ModelSpec, Sampler
from arvbench.adapters.schedule import Step
from arvbench.adapters.settings import SamplingSettings, Uint8Rule
from arvbench.adapters.token_grid.llama import Llama, LlamaConfig, rope_table
from arvbench.adapters.token_grid.passes import Pass, PassPlan, line_ends, make_pass_plan
from arvbench.adapters.tokenizers.tokenizer import IdTokenizer, decode_flops
from arvbench.adapters.tokenizers.vq import VqConfig, VqModel
from arvbench.adapters.work import StepWork, planned_work, recomputed_work
from arvbench.errors import UserError
from arvbench.kernels.dispatch import KernelSet


class GuidedSettings(SamplingSettings):
    """`cfg` is the guidance scale in uncond + cfg (cond - uncond), as in LlamaGen; values up to 1 disable guidance."""

    cfg: float = Field(ge=0, description="scale of classifier-free guidance; up to 1 samples the conditional model")
    temperature: float = Field(default=1.0, gt=0, description="divides the guided logits before they are filtered")
    uint8_rule: Uint8Rule = "127.5x+128"


class TokenGridSettings(GuidedSettings):
    """Guidance with one scale, up to an optional end."""

    cfg_interval: int | None = Field(
        default=None, ge=0, description="guidance goes off once a pass's `clock` exceeds it; None never turns it off"
    )


class TokenGridSampler(Sampler):
    """A token-grid model behind the sampling interface."""

    # The official code keeps the tokenizer in fp32 when it casts the transformer.
    keep_fp32: ClassVar = {"tokenizer": ("encoder", "decoder", "quantize", "quant_conv", "post_quant_conv")}
    # The official code also preallocates, in every call.
    official_cache: ClassVar = "static"
    transformer_class: ClassVar[type[Llama]] = Llama
    tokenizer_class: ClassVar[type[IdTokenizer]] = VqModel
    token_map: ClassVar[bool] = True
    """False for tokens that form no map of the image."""
    draws_one_by_one: ClassVar[bool] = False
    """True when the official code draws position by position (`Noise.tokens`)."""

    @classmethod
    def sizes(cls, spec: ModelSpec) -> ModelSizes:
        config: LlamaConfig = spec.transformer
        return ModelSizes(
            image_px=config.grid * spec.tokenizer.downsample,
            num_classes=config.num_classes,
            vocab_size=config.vocab_size,
            steps=len(cls.passes(config)),
            tokens=config.block_size,
        )

    @staticmethod
    @abstractmethod
    def passes(config: Any) -> list[Pass]:
        """Forward passes of one image, in order."""

    @staticmethod
    def unfed(config: Any) -> tuple[int, ...]:
        """Positions read by the official training pass but fed by no sampling pass."""
        return ()

    @staticmethod
    def position_table(config: Any) -> Tensor:
        """Rows (n, P, 2) of the rotary table: cosine and sine for every position, that of LEARNT last."""
        return rope_table(config)

    @classmethod
    def tokens_drawn(cls, spec: ModelSpec, settings: SamplingSettings) -> int:
        """Tokens of one image under `settings`: all of them, or those of the first passes."""
        return spec.tokens

    @classmethod
    def passes_for(cls, spec: ModelSpec, settings: SamplingSettings) -> list[Pass]:
        """Forward passes that draw the tokens of `settings`."""
        passes, count = cls.passes(spec.transformer), cls.tokens_drawn(spec, settings)
        ends = accumulate(len(p.draws) for p in passes)
        return [p for p, end in zip(passes, ends, strict=True) if end <= count]

    def guidance(self, passes: Sequence[Pass], settings: SamplingSettings) -> list[float | None]:
        """Scale of guidance in every pass; None takes the conditional rows alone."""
        assert isinstance(settings, TokenGridSettings)
        end = settings.cfg_interval
        on = [settings.cfg > 1 and (end is None or p.clock is None or p.clock <= end) for p in passes]
        return [settings.cfg if guided else None for guided in on]

    def predict(self, heads: tuple[Tensor, ...], step: int | None) -> Tensor:
        """Logits (R, l, V) of the drawn tokens, computed from each head's logits at the fed positions.

        `step` is the pass number; None means the training pass over all tokens. By default the k-th fed position
        predicts the k-th drawn token.
        """
        (logits_RlV,) = heads
        return logits_RlV[:, : len(self.plan.order_N if step is None else self.plan.passes[step].draws)]

    @property
    def transformer(self) -> Llama:
        return cast(Llama, self._modules["transformer"])

    @property
    def tokenizer(self) -> IdTokenizer:
        return cast(IdTokenizer, self._modules["tokenizer"])

    @property
    def plan(self) -> PassPlan:
        """Plan of a call with the official settings."""
        return self.plan_for(self.spec.settings)

    def plan_for(self, settings: SamplingSettings) -> PassPlan:
        """Plan of a call with `settings`."""
        count = self.tokens_drawn(self.spec, settings)
        if count not in self._plans:
            config = self.spec.transformer
            # Training may follow, and autograd rejects tensors made in inference mode.
            with torch.inference_mode(False):
                table = self.position_table(config).to(self.device)
                self._plans[count] = make_pass_plan(table, self.passes_for(self.spec, settings), self.unfed(config))
        return self._plans[count]

    @cached_property
    def _plans(self) -> dict[int, PassPlan]:
        """Tokens of one image -> plan of a call that draws them."""
        return {}

    @property
    def _side(self) -> tuple[int, int] | None:
        return (self.spec.transformer.grid,) * 2 if self.token_map else None

    def steps(self, policy: str, settings: SamplingSettings, *, batch: int) -> Sequence[Step]:
        config: LlamaConfig = self.spec.transformer
        shape = self.cache_shape(policy, settings, batch=batch)
        entries = shape.layers * shape.heads
        steps: list[Step] = []
        passes = self.plan_for(settings).passes
        for index, (p, work) in enumerate(zip(passes, self.pass_work(policy, shape), strict=True)):
            new, context = work.new, round(sum(work.reads) / entries)
            # A pass that computes its prefix again has the logits of all of it.
            logits_bytes = 4 * shape.rows * (len(p.draws) if any(work.held) else new) * config.vocab_size
            cache_traffic = (sum(work.reads) + new * entries) * work.entry_bytes if any(work.held) else 0
            beyond = work.pairs - shape.rows * new * context * entries
            steps.append(
                Step(
                    index=index,
                    kind=p.kind,
                    side=self._side,
                    new_tokens=new,
                    context_tokens=context,
                    cached_tokens=round(sum(work.held) / entries),
                    rows=shape.rows,
                    flops=config.flops(rows=shape.rows, new=new, context=context) + 4 * config.head_dim * beyond,
                    launches=config.launches,
                    bytes_moved=config.weight_bytes(self.dtype.itemsize) + cache_traffic + logits_bytes,
                    cache_bytes=work.cache_bytes,
                )
            )
        return steps

    def work(self, policy: str, settings: SamplingSettings, *, batch: int) -> Sequence[StepWork]:
        return self.pass_work(policy, self.cache_shape(policy, settings, batch=batch))

    @staticmethod
    def pass_work(policy: str, shape: CacheShape) -> list[StepWork]:
        """Work of every pass."""
        name, options = read_request(policy)
        tokens = cast(TokenOrder, shape.order).tokens
        if CACHE_POLICIES[name].memory == "nothing":
            return recomputed_work(tokens, shape)
        plan = cast(type[KVCache], CACHE_POLICIES[name]).plan(shape, options)
        return planned_work(tokens, shape.rows, shape.heads, plan)

    @classmethod
    def token_order(cls, spec: ModelSpec, settings: SamplingSettings) -> TokenOrder:
        """Lines are those of the token map, or in PAR those of all regions; an anti-diagonal is no line."""
        passes = cls.passes_for(spec, settings)
        fed = tuple((1, len(p.feeds)) for p in passes)
        if not cls.token_map or any(p.kind == "wavefront" for p in passes):
            return TokenOrder(kind="other", steps=fed)
        return TokenOrder(kind="lines", steps=fed, line_ends=line_ends(passes, spec.transformer.grid))

    def decode_flops(self, settings: SamplingSettings) -> int:
        return decode_flops(
            self.tokenizer_class, self.spec.tokenizer, self._side or (1, self.tokens_drawn(self.spec, settings))
        )

    def cache_shape(self, policy: str, settings: SamplingSettings, *, batch: int) -> CacheShape:
        config: LlamaConfig = self.spec.transformer
        passes = self.plan_for(settings).passes
        # All rows stay after `cfg_interval` turns guidance off, since PAR turns it on again.
        guided = any(scale is not None for scale in self.guidance(passes, settings))
        return CacheShape(
            layers=config.blocks,
            rows=2 * batch if guided else batch,
            heads=config.n_head,
            head_dim=config.head_dim,
            capacity_tokens=sum(len(p.feeds) for p in passes),
            dtype=self.dtype,
            device=self.device,
            order=self.token_order(self.spec, settings),
        )

    def generate(self, call: SamplingCall) -> tuple[Sequence[Tensor], Tensor]:
        plan = self.plan_for(call.settings)
        drawn_BN = torch.empty(call.schedule.images, len(plan.order_N), dtype=torch.int64, device=self.device)
        scales = self.guidance(plan.passes, call.settings)
        tokens: list[Tensor] = []
        done = 0
        for step, p, scale in zip(call.schedule, plan.passes, scales, strict=True):
            call.observer.step_begin(step)
            heads = self._forward(plan, step, call, drawn_BN[:, :done])
            logits_RlV = self.predict(heads, step.index)
            drawn = draw_tokens(logits_RlV, self.distribution(scale, call), call, step, self._kernels, self.sort_all)
            tokens.append(drawn.tokens_Bl)
            done += len(p.draws)
            drawn_BN[:, done - len(p.draws) : done] = tokens[-1]
            output = StepOutput(
                logits_pre_cfg=logits_RlV, logits=drawn.logits_BlV, tokens=tokens[-1], state=drawn_BN[:, :done]
            )
            call.observer.step_end(step, output)
        return tokens, drawn_BN

    def _forward(self, plan: PassPlan, step: Step, call: SamplingCall, drawn_Bn: Tensor) -> tuple[Tensor, ...]:
        """Logits of every head at the tokens that the pass feeds; without a cache, their prefix is computed again."""
        model, feeds = self.transformer, len(plan.passes[step.index].feeds)
        if call.cache.memory == "nothing":
            drawn_Rn, fed = drawn_Bn.repeat(2, 1) if call.guided else drawn_Bn, step.new_tokens
            x_RTC = model.sequence_input(call.labels_R, drawn_Rn)[:, :fed]
            rope_TP2, mask_TT = plan.trained_rope_LP2[:fed], plan.trained_mask_LL[:fed, :fed]
            return tuple(head[:, -feeds:] for head in model(x_RTC, rope_TP2, self._kernels, mask_lT=mask_TT))
        if step.index == 0:
            x_RlC = model.cls_embedding(call.labels_R)
        else:
            latest_Bl = drawn_Bn[:, -len(plan.passes[step.index - 1].draws) :]
            x_RlC = model.step_input(latest_Bl.repeat(2, 1) if call.guided else latest_Bl, step.index)
        cache = cast(KVCache, call.cache)
        heads: tuple[Tensor, ...] = model(x_RlC, plan.ropes[step.index], self._kernels, cache=cache)
        return heads

    def distribution(self, scale: float | None, call: SamplingCall) -> Distribution:
        """Distribution of the tokens of a pass that is guided by `scale`."""
        settings = cast(GuidedSettings, call.settings)
        temperature = max(settings.temperature, 1e-5)
        rule = sample_rule(
            settings.top_k, settings.top_p, mix="interpolate", nucleus="reached", temperature=temperature
        )
        return Distribution(rule=rule, strength=scale, one_by_one=self.draws_one_by_one)

    def decode_state(self, state: Tensor) -> Tensor:
        return to_unit_range(self.tokenizer.decode(state[:, self.plan.raster_N]))

    def tokens_of(self, images: Tensor, settings: SamplingSettings) -> tuple[Tensor, ...]:
        return self.from_raster(self.tokenizer.encode(images))

    def from_raster(self, ids_BN: Tensor) -> tuple[Tensor, ...]:
        """Split a map in raster order into one tensor (B, l) per pass."""
        if ids_BN.shape[1] != len(self.plan.order_N):
            raise UserError(f"{self.spec.name} has {len(self.plan.order_N)} tokens per image, got {ids_BN.shape[1]}")
        tokens: tuple[Tensor, ...] = ids_BN[:, self.plan.order_N].split([len(p.draws) for p in self.plan.passes], dim=1)
        return tokens

    def to_raster(self, tokens: Sequence[Tensor]) -> Tensor:
        """Join the tokens of all passes into ids (B, N) in raster order."""
        return self.state_of(tokens, self.spec.settings)[:, self.plan.raster_N]

    def state_of(self, tokens: Sequence[Tensor], settings: SamplingSettings) -> Tensor:
        """Ids (B, N) in the order of generation; UserError for tokens of another model."""
        count = self.tokens_drawn(self.spec, settings)
        if not tokens or any(t.ndim != 2 or len(t) != len(tokens[0]) for t in tokens):
            shapes = ", ".join("x".join(map(str, t.shape)) for t in tokens) or "none"
            raise UserError(f"tokens must be a tensor (B, l) for every pass, all of one batch, got {shapes}")
        ids_BN = torch.cat(tuple(tokens), dim=1)
        if ids_BN.shape[1] != count:
            raise UserError(f"{self.spec.name} has {count} tokens per image, got {ids_BN.shape[1]}")
        return ids_BN

    def forced_logits(
        self, tokens: Sequence[Tensor], labels_B: Tensor, settings: SamplingSettings, kernels: KernelSet
    ) -> Tensor:
        """Logits (B, N, V) in the order of generation, in one pass under the training mask."""
        plan = self.plan_for(settings)
        x_BLC = self.transformer.sequence_input(labels_B, self.state_of(tokens, settings))[:, : len(plan.trained)]
        heads = self.transformer(x_BLC, plan.trained_rope_LP2, kernels, mask_lT=plan.trained_mask_LL)
        return self.predict(heads, None)

    @property
    def label_drop(self) -> float:
        return cast(LlamaConfig, self.spec.transformer).class_dropout_prob


def official_checkpoint(hub_repo: str, file: str) -> Checkpoint:
    """Checkpoint of a released transformer; all families use LlamaGen's VQ-16.

    Training checkpoints nest the transformer under "model" (DDP), "module" (DeepSpeed) or "state_dict"; FSDP saves a
    flat file.
    """
    return Checkpoint(
        transformer_file=file,
        tokenizer_file="vq_ds16_c2i.pt",
        hub_repo=hub_repo,
        tokenizer_repo="FoundationVision/LlamaGen",
        transformer_nesting=(("model",), ("module",), ("state_dict",)),
        tokenizer_nesting=(("model",),),
    )


DEMO_TOKENIZER = VqConfig(
    codebook_size=64,
    codebook_embed_dim=8,
    z_channels=32,
    ch=32,
    encoder_ch_mult=(1, 1, 1),
    decoder_ch_mult=(1, 1, 1),
    num_res_blocks=1,
)
"""Demo tokenizer: 32 px to an 8x8 map."""
