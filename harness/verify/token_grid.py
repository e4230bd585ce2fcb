"""Replay of token-grid fixtures: LlamaGen, NAR and PAR.

Shapes   B images, R forward rows, N tokens of an image, L tokens of the training pass, V codebook entries, S cache
         slots (condition and special tokens, then the image), padded to a multiple of 8 as in the official code
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from arvbench.adapters.cache.static import StaticCache
from arvbench.adapters.pixels import to_uint8
from arvbench.adapters.sampler import NULL_LABEL
from arvbench.adapters.sampling import UpstreamNoise
from arvbench.adapters.settings import SamplingSettings
from arvbench.adapters.token_grid.passes import LEARNT
from arvbench.adapters.token_grid.sampler import TokenGridSampler, TokenGridSettings
from arvbench.adapters.tokenizers.vq import VqConfig
from arvbench.harness.verify.fixture import Fixture
from arvbench.harness.verify.replay import (
    FamilyReplay,
    Outputs,
    Recorder,
    Run,
    Tolerances,
    numbered,
    prefixed,
    recorded,
)

NO_EFFECT = frozenset(
    {"initializer_range", "token_dropout_p", "attn_dropout_p", "resid_dropout_p", "ffn_dropout_p", "drop_path_rate"}
    | {"caption_dim", "max_batch_size", "max_seq_len", "downsample", "group_norm_groups", "note", "spe_token_num"}
)
"""Official arguments that change no recorded output: regularisation (off in every fixture), initialisation, sizes of
buffers that we allocate ourselves, remarks, and values derived from other arguments.
"""
FIXED: Mapping[str, Any] = {
    "n_kv_head": None,
    "ffn_dim_multiplier": None,
    "model_type": "c2i",
    "cls_token_num": 1,
    "medusa_attention_num": 1,
    "in_channels": 3,
    "out_channels": 3,
}
"""Official arguments without a counterpart here, with the value of every released model."""
TOLERANCES: Tolerances = (
    ("_u8", 1.0),
    ("logits_post_cfg", 1e-3),
    ("probs", 3e-5),
    ("rope_table", 1e-6),
    ("", 2e-4),
)
"""Published as 2e-4 + 1e-4 of the value for logits and 2e-3 for images; the absolute ones here are tighter for images.
A byte may differ by one where a float lies on a boundary.
"""
HEADS = {"output": "R", "medusa_output": "B"}
"""Output heads, and their letters in NAR's fixtures."""


def run_settings(run: Run) -> TokenGridSettings:
    """Return our settings for a run's official arguments; top_k = 1 leaves the most likely token, as greedy runs do."""
    return TokenGridSettings(
        cfg=run["cfg_scale"],
        cfg_interval=None if run["cfg_interval"] < 0 else run["cfg_interval"],
        temperature=run["temperature"],
        top_k=(run["top_k"] or None) if run["sample_logits"] else 1,
        top_p=run["top_p"],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenGridReplay(FamilyReplay):
    """Replay of one token-grid family."""

    tolerances: Tolerances = TOLERANCES
    tokenizer: type[Any] = VqConfig
    no_effect: frozenset[str] = NO_EFFECT
    fixed: Mapping[str, Any] = field(default_factory=lambda: FIXED)
    spec_settings: Callable[[Fixture], SamplingSettings] = lambda _: TokenGridSettings(cfg=1)
    run_settings: Callable[[Run], SamplingSettings] = run_settings
    in_generation_order: bool = False
    """The official code has cache slots and the training pass in the order of generation, and one mask for all images;
    otherwise in raster order, and a mask per image.
    """

    def run_outputs(self, sampler: TokenGridSampler, fixture: Fixture, run: Run) -> Outputs:
        settings, labels = self.run_settings(run), fixture.inputs["labels"]
        cache = sampler.make_cache("static", settings, batch=len(labels))
        noise, recorder = RecordingNoise(run["torch_seed"] or 0), Recorder()
        with recorded(sampler.transformer, "|".join(HEADS)) as heads:
            samples = sampler.sample(labels, settings, noise=noise, cache=cache, observer=recorder)
        # The decoder's own output, nominally in [-1, 1].
        image = samples.decoded * 2 - 1
        tokens = sampler.to_raster(samples.tokens)
        resized = F.interpolate(image, size=image.shape[-1] * 2 // 3, mode="bicubic")
        return {
            "tokens": tokens,
            "tokens_gen_order": torch.cat(samples.tokens, dim=1),
            "logits_pre_cfg": torch.cat([step.logits_pre_cfg for step in recorder.outputs], dim=1),
            "logits_post_cfg": torch.cat([step.logits for step in recorder.outputs], dim=1),
            "probs": torch.cat(noise.probs, dim=1),
            "quant": sampler.tokenizer.quantize.lookup(tokens, (sampler.spec.transformer.grid,) * 2),
            "image": image,
            "image_u8": samples.images.permute(0, 2, 3, 1),
            "image_resized": resized,
            "image_resized_u8": to_uint8((resized + 1) / 2, "round").permute(0, 2, 3, 1),
            **{f"fed_logits_{HEADS[head]}": torch.cat([out for _, out in calls], 1) for head, calls in heads.items()},
            **self._cached(sampler, cast(StaticCache, cache)),
        }

    def pass_outputs(self, sampler: TokenGridSampler, fixture: Fixture) -> Outputs:
        return (
            self._plan(sampler)
            | prefixed("tf", self._training_pass(sampler, fixture))
            | self._training_pass_without_labels(sampler, fixture)
            | prefixed("vq", tokenizer_outputs(sampler, fixture))
        )

    def _plan(self, sampler: TokenGridSampler) -> Outputs:
        plan = sampler.plan
        # The last drawn token also has a slot, although no pass feeds it.
        generated = [*plan.trained, int(plan.order_N[-1])]
        positions = generated if self.in_generation_order else [LEARNT, *range(len(plan.order_N))]
        fed = sum(len(p.feeds) for p in plan.passes)
        drawn_in = torch.tensor([number for number, p in enumerate(plan.passes) for _ in p.draws])
        return {
            "order": plan.order_N,
            "step_gen_order": drawn_in,
            "step_raster": drawn_in[plan.raster_N.cpu()],
            "num_forward_passes": torch.tensor(len(plan.passes)),
            "rope_table": sampler.position_table(sampler.spec.transformer)[positions],
            "cache_positions": torch.tensor(self._slots(sampler)[:fed]),
            "cache_mask": self._cache_mask(sampler),
        }

    def _slots(self, sampler: TokenGridSampler) -> list[int]:
        """Return the official cache slot of every token of the training pass."""
        positions = sampler.plan.trained
        if self.in_generation_order:
            return list(range(len(positions)))
        return [1 + position if position != LEARNT else 0 for position in positions]

    def _cache_mask(self, sampler: TokenGridSampler) -> Tensor:
        """Return (S, S) uint8, 1 where a slot attends to a slot fed by its own or an earlier pass.

        Slots that no pass feeds continue the numbering: one by one, or in groups as large as those of the last pass.
        """
        size, passes = _padded_slots(sampler), sampler.plan.passes
        group = len(passes[-1].feeds) if self.in_generation_order else 1
        fed = [number for number, p in enumerate(passes) for _ in p.feeds]
        slots = self._slots(sampler)[: len(fed)]
        numbers = fed + [fed[-1] + 1 + i // group for i in range(size - len(fed))]
        slots += sorted(set(range(size)) - set(slots))
        by_slot = torch.empty(size, dtype=torch.int64)
        by_slot[slots] = torch.tensor(numbers)
        return (by_slot[:, None] >= by_slot[None]).to(torch.uint8)

    def _cached(self, sampler: TokenGridSampler, cache: StaticCache) -> Outputs:
        """Return keys and values of every layer in the official slots, (R, H, S, D); unwritten slots are zero."""
        shape = cache.shape
        slots = torch.tensor(self._slots(sampler)[: shape.capacity_tokens], device=sampler.device)
        no_tokens = torch.empty(shape.rows, shape.heads, 0, shape.head_dim, dtype=shape.dtype, device=sampler.device)
        outputs: Outputs = {}
        for layer in range(shape.layers):
            for name, cached in zip("kv", cache.extend(layer, no_tokens, no_tokens), strict=True):
                placed = cached.new_zeros(shape.rows, shape.heads, _padded_slots(sampler), shape.head_dim)
                placed[:, :, slots] = cached
                outputs[f"{name}_cache.{layer}"] = placed
        return outputs

    def _training_pass(self, sampler: TokenGridSampler, fixture: Fixture) -> Outputs:
        tokens, labels = _training_inputs(sampler, fixture)
        with recorded(sampler.transformer, r"layers\.\d+|" + "|".join(HEADS)) as calls:
            logits = sampler.teacher_forced(tokens, labels)
        # Reorder from generation order to slot order.
        order = torch.tensor(self._slots(sampler), device=sampler.device).argsort()
        by_slot = {name: output[:, order] for name, ((_, output),) in calls.items()}
        hidden = [output for name, output in by_slot.items() if name not in HEADS]
        mask = sampler.plan.trained_mask_LL[order][:, order].to(torch.uint8)
        return {
            "logits": self._in_recorded_order(sampler, logits),
            "loss": sampler.loss(tokens, labels).detach().view(1),
            "mask": mask if self.in_generation_order else mask.expand(len(labels), -1, -1),
            "hidden": torch.stack(hidden),
            **numbered("hidden", hidden),
            **{f"head_{HEADS[name]}": output for name, output in by_slot.items() if name in HEADS},
        }

    def _training_pass_without_labels(self, sampler: TokenGridSampler, fixture: Fixture) -> Outputs:
        if "tf_drop_ids" not in fixture.inputs:
            return {}
        tokens, labels = _training_inputs(sampler, fixture)
        dropped = labels.masked_fill(fixture.inputs["tf_drop_ids"].bool(), NULL_LABEL)
        return {"tf_drop.logits": self._in_recorded_order(sampler, sampler.teacher_forced(tokens, dropped))}

    def _in_recorded_order(self, sampler: TokenGridSampler, per_token_BNX: Tensor) -> Tensor:
        return per_token_BNX if self.in_generation_order else per_token_BNX[:, sampler.plan.raster_N]


@torch.inference_mode()
def tokenizer_outputs(sampler: TokenGridSampler, fixture: Fixture) -> Outputs:
    """Return the outputs of the VQ model."""
    tokenizer = sampler.tokenizer
    features = tokenizer.features(fixture.inputs["image"].to(sampler.device))
    side = (features.shape[2], features.shape[3])
    ids = tokenizer.quantize.nearest(features)
    return {
        "pre_quant": features,
        "ids": ids,
        "quant": tokenizer.quantize.lookup(ids, side),
        "recon": tokenizer.decode(ids),
        "dec_tf": tokenizer.decode(fixture.inputs["tf_ids"].to(sampler.device)),
    }


class RecordingNoise:
    """The official random stream, recording the probabilities of every draw."""

    def __init__(self, seed: int) -> None:
        upstream = UpstreamNoise(seed)
        self.labels, self.exponential, self.redrawn = upstream.labels, upstream.exponential, upstream.redrawn
        self.latents, self.orders = upstream.latents, upstream.orders
        self.normal, self._draw = upstream.normal, upstream.tokens
        self.probs: list[Tensor] = []

    def tokens(self, logits_BlV: Tensor, step: int, *, one_by_one: bool = False) -> Tensor:
        self.probs.append(logits_BlV.softmax(dim=-1))
        return self._draw(logits_BlV, step, one_by_one=one_by_one)


def _padded_slots(sampler: TokenGridSampler) -> int:
    """Return S, the slots that the official code allocates."""
    return -(-(1 + sampler.spec.tokens) // 8) * 8


def _training_inputs(sampler: TokenGridSampler, fixture: Fixture) -> tuple[tuple[Tensor, ...], Tensor]:
    return sampler.from_raster(fixture.inputs["tf_ids"].to(sampler.device)), fixture.inputs["labels"]
