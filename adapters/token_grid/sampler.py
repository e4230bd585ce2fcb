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
from dataclasses import dataclass
from functools import cached_property
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
from arvbench.adapters.tokenizers.tokenizer import decode_flops
from arvbench.adapters.tokenizers.vq import VqConfig, VqModel
from arvbench.adapters.work import StepWork, planned_work
from arvbench.errors import UserError
from arvbench.kernels.dispatch import KernelSet

LEARNT = -1
"""Placeholder for a learnt token (class, special token) in a list of raster positions."""


class TokenGridSettings(SamplingSettings):
    """`cfg` is the guidance scale in uncond + cfg (cond - uncond), as in LlamaGen; values up to 1 disable guidance."""

    cfg: float = Field(ge=0, description="scale of classifier-free guidance; up to 1 samples the conditional model")
    temperature: float = Field(default=1.0, gt=0, description="divides the guided logits before they are filtered")
    cfg_interval: int | None = Field(
        default=None, ge=0, description="guidance goes off once a pass's `clock` exceeds it; None never turns it off"
    )
    uint8_rule: Uint8Rule = "127.5x+128"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One forward pass. Positions are raster indices of the token map."""

    kind: str
    """`Step.kind`."""
    feeds: tuple[int, ...]
    """Positions of its input tokens, or LEARNT."""
    draws: tuple[int, ...]
    """Positions of the drawn tokens."""
    clock: int | None
    """Value compared with `cfg_interval`; None: guidance is always on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassPlan:
    """Tables of a model's passes, on its device; built once per sampler, and equal in all its calls."""

    passes: tuple[Pass, ...]
    ropes: tuple[Tensor, ...]
    """Rows (l, P, 2) of the rotary table, per pass."""
    order_N: Tensor
    """Raster position of the k-th token drawn."""
    raster_N: Tensor
    """Inverse of `order_N`: draw index of every raster position."""
    trained: tuple[int, ...]
    """Positions read by the official training pass: all positions fed in sampling, in some families also others."""
    trained_rope_LP2: Tensor
    trained_mask_LL: Tensor
    """Boolean: a token attends to the tokens fed in its own and earlier passes."""


def make_pass_plan(config: LlamaConfig, passes: Sequence[Pass], unfed: Sequence[int], device: torch.device) -> PassPlan:
    """Make the plan of `passes`; training reads the positions `unfed` after them, as one more group."""
    table = rope_table(config).to(device)
    groups = [p.feeds for p in passes] + ([tuple(unfed)] if unfed else [])
    trained = tuple(position for group in groups for position in group)
    number_L = torch.tensor([i for i, group in enumerate(groups) for _ in group], device=device)
    order_N = torch.tensor([position for p in passes for position in p.draws], device=device)
    return PassPlan(
        passes=tuple(passes),
        ropes=tuple(table[list(p.feeds)] for p in passes),
        order_N=order_N,
        raster_N=order_N.argsort(),
        trained=trained,
        trained_rope_LP2=table[list(trained)],
        trained_mask_LL=number_L[:, None] >= number_L[None],
    )


def line_ends(passes: Sequence[Pass], grid: int) -> tuple[int, ...]:
    """Passes that feed the last tokens of a line: those after which the next pass feeds a new line's first one.

    The tokens that are fed together lie at equal places in their regions, so the smallest position tells the line.
    PAR begins with one token of every region, on lines that do not follow each other.
    """
    columns = [min((at for at in p.feeds if at != LEARNT), default=LEARNT) for p in passes]
    lines = [at // grid if at != LEARNT else -1 for at in columns]
    return tuple(n for n in range(1, len(lines) - 1) if lines[n + 1] == lines[n] + 1 > 0)


class TokenGridSampler(Sampler):
    """A token-grid model behind the sampling interface."""

    # The official code keeps the tokenizer in fp32 when it casts the transformer.
    keep_fp32: ClassVar = {"tokenizer": ("encoder", "decoder", "quantize", "quant_conv", "post_quant_conv")}
    # The official code also preallocates, in every call.
    official_cache: ClassVar = "static"
    transformer_class: ClassVar[type[Llama]] = Llama
    tokenizer_class: ClassVar[type[VqModel]] = VqModel
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
    @abstractmethod
    def unfed(config: Any) -> tuple[int, ...]:
        """Positions read by the official training pass but fed by no sampling pass."""

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
    def tokenizer(self) -> VqModel:
        return cast(VqModel, self._modules["tokenizer"])

    @cached_property
    def plan(self) -> PassPlan:
        config = self.spec.transformer
        # Training may follow, and autograd rejects tensors made in inference mode.
        with torch.inference_mode(False):
            return make_pass_plan(config, self.passes(config), self.unfed(config), self.device)

    @property
    def _side(self) -> tuple[int, int]:
        return (self.spec.transformer.grid, self.spec.transformer.grid)

    def steps(self, policy: str, settings: SamplingSettings, *, batch: int) -> Sequence[Step]:
        config: LlamaConfig = self.spec.transformer
        shape = self.cache_shape(policy, settings, batch=batch)
        entries = shape.layers * shape.heads
        steps: list[Step] = []
        for index, (p, work) in enumerate(zip(self.plan.passes, self.pass_work(policy, shape), strict=True)):
            new, context = work.new, round(sum(work.reads) / entries)
            logits_bytes = 4 * shape.rows * len(p.draws) * config.vocab_size
            cache_traffic = (sum(work.reads) + new * entries) * work.entry_bytes
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
        plan = cast(type[KVCache], CACHE_POLICIES[name]).plan(shape, options)
        return planned_work(cast(TokenOrder, shape.order).tokens, shape.rows, shape.heads, plan)

    @classmethod
    def token_order(cls, spec: ModelSpec, settings: SamplingSettings) -> TokenOrder:
        """Lines are those of the token map, or in PAR those of all regions; an anti-diagonal is no line."""
        passes = cls.passes(spec.transformer)
        fed = tuple((1, len(p.feeds)) for p in passes)
        if any(p.kind == "wavefront" for p in passes):
            return TokenOrder(kind="other", steps=fed)
        return TokenOrder(kind="lines", steps=fed, line_ends=line_ends(passes, spec.transformer.grid))

    def decode_flops(self, settings: SamplingSettings) -> int:
        return decode_flops(self.tokenizer_class, self.spec.tokenizer, self._side)

    def cache_shape(self, policy: str, settings: SamplingSettings, *, batch: int) -> CacheShape:
        config: LlamaConfig = self.spec.transformer
        return CacheShape(
            layers=config.blocks,
            # All rows stay after `cfg_interval` turns guidance off, since PAR turns it on again.
            rows=2 * batch if settings.cfg > 1 else batch,
            heads=config.n_head,
            head_dim=config.head_dim,
            capacity_tokens=sum(len(p.feeds) for p in self.plan.passes),
            dtype=self.dtype,
            device=self.device,
            order=self.token_order(self.spec, settings),
        )

    def generate(self, call: SamplingCall) -> tuple[Sequence[Tensor], Tensor]:
        model, plan = self.transformer, self.plan
        drawn_BN = torch.empty(call.schedule.images, len(plan.order_N), dtype=torch.int64, device=self.device)
        tokens: list[Tensor] = []
        done = 0
        for step, p in zip(call.schedule, plan.passes, strict=True):
            call.observer.step_begin(step)
            if step.index == 0:
                x_RlC = model.cls_embedding(call.labels_R)
            else:
                x_RlC = model.step_input(tokens[-1].repeat(2, 1) if call.guided else tokens[-1], step.index)
            cache = cast(KVCache, call.cache)
            heads = model(x_RlC, plan.ropes[step.index], self._kernels, cache=cache)
            logits_RlV = self.predict(heads, step.index)
            distribution = self.distribution(p, call)
            drawn = draw_tokens(logits_RlV, distribution, call, step, self._kernels, self.sort_all)
            tokens.append(drawn.tokens_Bl)
            done += len(p.draws)
            drawn_BN[:, done - len(p.draws) : done] = tokens[-1]
            output = StepOutput(
                logits_pre_cfg=logits_RlV, logits=drawn.logits_BlV, tokens=tokens[-1], state=drawn_BN[:, :done]
            )
            call.observer.step_end(step, output)
        return tokens, drawn_BN

    def distribution(self, of: Pass, call: SamplingCall) -> Distribution:
        """Distribution of the tokens of a pass."""
        settings = cast(TokenGridSettings, call.settings)
        on = settings.cfg_interval is None or of.clock is None or of.clock <= settings.cfg_interval
        temperature = max(settings.temperature, 1e-5)
        rule = sample_rule(
            settings.top_k, settings.top_p, mix="interpolate", nucleus="reached", temperature=temperature
        )
        return Distribution(
            rule=rule, strength=settings.cfg if call.guided and on else None, one_by_one=self.draws_one_by_one
        )

    def decode_state(self, state: Tensor) -> Tensor:
        return to_unit_range(self.tokenizer.decode(state[:, self.plan.raster_N], self._side))

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
        count = len(self.plan.order_N)
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
        plan = self.plan
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
