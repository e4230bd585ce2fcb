"""Replay of a LlamaGen, NAR or PAR fixture: every recorded run through our sampler, under the fixture's names.

Shapes   B images, R forward rows, N tokens of an image, L tokens of the training pass, V codebook entries, S cache
         slots (condition and special tokens, then the image), padded to a multiple of 8 as in the official code
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arvbench.adapters.cache.static import StaticCache
from arvbench.adapters.llamagen import LlamaGenSampler
from arvbench.adapters.loading import assemble, meta_modules
from arvbench.adapters.nar import NarConfig, NarSampler
from arvbench.adapters.par import ParConfig, ParSampler
from arvbench.adapters.pixels import to_uint8
from arvbench.adapters.sampler import SilentObserver, StepOutput, WeightsInfo
from arvbench.adapters.sampling import UpstreamNoise
from arvbench.adapters.schedule import Step
from arvbench.adapters.settings import Backend
from arvbench.adapters.token_grid.llama import LlamaConfig, rope_table
from arvbench.adapters.token_grid.sampler import LEARNT, TokenGridSampler, TokenGridSettings, token_grid_spec
from arvbench.adapters.tokenizers.vq import VqConfig
from arvbench.harness.verify.fixture import Fixture, FixtureError

_FAMILIES: dict[str, tuple[type[TokenGridSampler], type[LlamaConfig]]] = {
    "llamagen": (LlamaGenSampler, LlamaConfig),
    "nar": (NarSampler, NarConfig),
    "par": (ParSampler, ParConfig),
}

# Arguments that change nothing in the recorded outputs: regularisation (off in every fixture), initialisation, sizes of
# what we allocate ourselves, remarks, and what follows from other arguments.
_NO_EFFECT = frozenset(
    {"initializer_range", "token_dropout_p", "attn_dropout_p", "resid_dropout_p", "ffn_dropout_p", "drop_path_rate"}
    | {"caption_dim", "max_batch_size", "max_seq_len", "downsample", "group_norm_groups", "note", "spe_token_num"}
)
# Arguments that we have no use for, and the value that every released model has.
_FIXED = {
    "n_kv_head": None,
    "ffn_dim_multiplier": None,
    "model_type": "c2i",
    "cls_token_num": 1,
    "medusa_attention_num": 1,
    "in_channels": 3,
    "out_channels": 3,
}


def replay(fixture: Fixture, backend: str, device: torch.device) -> dict[str, Tensor]:
    """Everything that the fixture may have recorded, by name."""
    sampler = _build(fixture, cast(Backend, backend), device)
    produced = _plan(sampler)
    for name, run in fixture.runs.items():
        produced |= {f"{name}.{output}": t for output, t in _run(sampler, fixture, run).items()}
    produced |= {f"tf.{output}": t for output, t in _teacher_forced(sampler, fixture).items()}
    produced |= {f"vq.{output}": t for output, t in _tokenizer(sampler, fixture).items()}
    if "tf_drop_ids" in fixture.inputs:
        tokens, labels = _tf_inputs(sampler, fixture)
        dropped = labels.masked_fill(fixture.inputs["tf_drop_ids"].bool(), LEARNT)
        produced["tf_drop.logits"] = _as_recorded(sampler, sampler.teacher_forced(tokens, dropped))
    return produced


def _build(fixture: Fixture, backend: Backend, device: torch.device) -> TokenGridSampler:
    family, config = _FAMILIES[fixture.kind]
    transformer = config(**_arguments(config, fixture.model_args))
    tokenizer = VqConfig(**_arguments(VqConfig, fixture.tokenizer_args))
    spec = token_grid_spec(
        fixture.name, fixture.kind, family, transformer, tokenizer, TokenGridSettings(cfg=1), "fixture"
    )
    state = {}
    for (part, module), prefix in zip(meta_modules(spec).items(), ("model.", "vae."), strict=True):
        state[part] = {k.removeprefix(prefix): t for k, t in fixture.weights.items() if k.startswith(prefix)}
        constants: dict[str, Tensor] = module.constant_buffers()  # type: ignore[operator]
        state[part] |= {k: t for k, t in constants.items() if prefix + k in fixture.constructed}
    info = WeightsInfo(source=f"fixture {fixture.name}", random=False)
    return cast(TokenGridSampler, assemble(spec, state, info, device=device, backend=backend))


def _arguments(kind: type, args: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that `kind` takes. Raises FixtureError for others that would change the outputs."""
    known = {f.name for f in fields(kind)}
    others = sorted(args.keys() - known - _NO_EFFECT)
    if unknown := [k for k in others if k not in _FIXED or args[k] != _FIXED[k]]:
        raise FixtureError(f"the fixture uses arguments that are not implemented: {', '.join(unknown)}")
    return {k: tuple(v) if isinstance(v, list) else v for k, v in args.items() if k in known}


def _slots(sampler: TokenGridSampler) -> list[int]:
    """Official cache slot of every token of the training pass: PAR's are in the order of generation."""
    positions = sampler.plan.trained
    if sampler.spec.family == "par":
        return list(range(len(positions)))
    return [1 + position if position != LEARNT else 0 for position in positions]


def _plan(sampler: TokenGridSampler) -> dict[str, Tensor]:
    plan, config = sampler.plan, sampler.spec.transformer
    table = rope_table(config)
    if sampler.spec.family == "par":
        # Condition, first tokens, special tokens, the other tokens; the last one is fed in no pass.
        table = table[[*plan.trained, int(plan.order_N[-1])]]
    else:
        table = torch.cat((table[LEARNT:], table[:LEARNT]))
    fed = sum(len(p.feeds) for p in plan.passes)
    steps = torch.tensor([i for i, p in enumerate(plan.passes) for _ in p.draws])
    return {
        "order": plan.order_N,
        "step_gen_order": steps,
        "step_raster": steps[plan.raster_N.cpu()],
        "num_forward_passes": torch.tensor(len(plan.passes)),
        "rope_table": table,
        "cache_positions": torch.tensor(_slots(sampler)[:fed]),
        "cache_mask": _cache_mask(sampler),
    }


def _padded(sampler: TokenGridSampler) -> int:
    """S: slots that the official code allocates."""
    return -(-(1 + sampler.spec.tokens) // 8) * 8


def _cache_mask(sampler: TokenGridSampler) -> Tensor:
    """(S, S) uint8: which slot sees which, by the number of the pass that feeds it.

    Slots that no pass feeds go on in the same way: one by one, or in groups as large as PAR's.
    """
    size = _padded(sampler)
    width = len(sampler.plan.passes[-1].feeds) if sampler.spec.family == "par" else 1
    fed = [number for number, p in enumerate(sampler.plan.passes) for _ in p.feeds]
    slots = _slots(sampler)[: len(fed)]
    numbers = fed + [fed[-1] + 1 + i // width for i in range(size - len(fed))]
    slots += sorted(set(range(size)) - set(slots))
    by_slot = torch.empty(size, dtype=torch.int64)
    by_slot[slots] = torch.tensor(numbers)
    return (by_slot[:, None] >= by_slot[None]).to(torch.uint8)


class _Recorder(SilentObserver):
    """Keeps what every step produced."""

    def __init__(self) -> None:
        self.steps: list[StepOutput] = []

    def step_end(self, step: Step, output: StepOutput) -> None:
        self.steps.append(output)


class _RecordingNoise:
    """The official stream; keeps the probabilities that tokens are drawn from."""

    def __init__(self, seed: int) -> None:
        upstream = UpstreamNoise(seed)
        self.labels, self.exponential, self.redrawn = upstream.labels, upstream.exponential, upstream.redrawn
        self._draw = upstream.tokens
        self.probs: list[Tensor] = []

    def tokens(self, logits_BlV: Tensor, step: int, *, one_by_one: bool = False) -> Tensor:
        self.probs.append(logits_BlV.softmax(dim=-1))
        return self._draw(logits_BlV, step, one_by_one=one_by_one)


@contextmanager
def _outputs_of(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, list[Tensor]]]:
    """What the named modules return while the context is open."""
    outputs: dict[str, list[Tensor]] = {name: [] for name in modules}
    hooks = [
        module.register_forward_hook(lambda _module, _args, output, name=name: outputs[name].append(output))
        for name, module in modules.items()
    ]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def _heads(sampler: TokenGridSampler) -> dict[str, nn.Module]:
    """Output heads under the names of NAR's fixtures."""
    named = {"R": "output", "B": "medusa_output"}
    children = dict(sampler.transformer.named_children())
    return {letter: children[name] for letter, name in named.items() if name in children}


def _run(sampler: TokenGridSampler, fixture: Fixture, run: Mapping[str, Any]) -> dict[str, Tensor]:
    greedy = not run["sample_logits"]
    settings = TokenGridSettings(
        cfg=run["cfg_scale"],
        cfg_interval=None if run["cfg_interval"] < 0 else run["cfg_interval"],
        temperature=run["temperature"],
        # The most likely token is also the only one that top_k = 1 leaves.
        top_k=1 if greedy else run["top_k"] or None,
        top_p=run["top_p"],
    )
    labels = fixture.inputs["labels"]
    cache = sampler.make_cache("static", settings, batch=len(labels))
    noise, recorder = _RecordingNoise(run["torch_seed"] or 0), _Recorder()
    with _outputs_of(_heads(sampler)) as raw:
        samples = sampler.sample(labels, settings, noise=noise, cache=cache, observer=recorder)
    # The decoder's own output, nominally in [-1, 1].
    image = samples.decoded * 2 - 1
    tokens = sampler.to_raster(samples.tokens)
    resized = F.interpolate(image, size=image.shape[-1] * 2 // 3, mode="bicubic")
    return {
        "tokens": tokens,
        "tokens_gen_order": torch.cat(samples.tokens, dim=1),
        "logits_pre_cfg": torch.cat([step.logits_pre_cfg for step in recorder.steps], dim=1),
        "logits_post_cfg": torch.cat([step.logits for step in recorder.steps], dim=1),
        "probs": torch.cat(noise.probs, dim=1),
        "quant": sampler.tokenizer.quantize.lookup(tokens, (sampler.spec.transformer.grid,) * 2),
        "image": image,
        "image_u8": samples.images.permute(0, 2, 3, 1),
        "image_resized": resized,
        "image_resized_u8": to_uint8((resized + 1) / 2, "round").permute(0, 2, 3, 1),
        **{f"fed_logits_{letter}": torch.cat(fed, dim=1) for letter, fed in raw.items()},
        **_cache_slots(sampler, cast(StaticCache, cache)),
    }


def _cache_slots(sampler: TokenGridSampler, cache: StaticCache) -> dict[str, Tensor]:
    """Keys and values of every layer in the official slots, (R, H, S, D); unwritten slots are zero."""
    shape = cache.shape
    slots = torch.tensor(_slots(sampler)[: shape.capacity_tokens], device=sampler.device)
    nothing = torch.empty(shape.rows, shape.heads, 0, shape.head_dim, dtype=shape.dtype, device=sampler.device)
    produced = {}
    for layer in range(shape.layers):
        for name, held in zip("kv", cache.extend(layer, nothing, nothing), strict=True):
            placed = held.new_zeros(shape.rows, shape.heads, _padded(sampler), shape.head_dim)
            placed[:, :, slots] = held
            produced[f"{name}_cache.{layer}"] = placed
    return produced


def _as_recorded(sampler: TokenGridSampler, per_token_BNX: Tensor) -> Tensor:
    """From the order of generation to the recorded one: raster, but for PAR."""
    return per_token_BNX if sampler.spec.family == "par" else per_token_BNX[:, sampler.plan.raster_N]


def _tf_inputs(sampler: TokenGridSampler, fixture: Fixture) -> tuple[tuple[Tensor, ...], Tensor]:
    return sampler.from_raster(fixture.inputs["tf_ids"].to(sampler.device)), fixture.inputs["labels"]


def _teacher_forced(sampler: TokenGridSampler, fixture: Fixture) -> dict[str, Tensor]:
    tokens, labels = _tf_inputs(sampler, fixture)
    layers = {str(i): layer for i, layer in enumerate(sampler.transformer.layers)}
    with _outputs_of(layers | _heads(sampler)) as outputs:
        logits = sampler.teacher_forced(tokens, labels)
    # From the order of generation to that of the slots.
    order = torch.tensor(_slots(sampler), device=sampler.device).argsort()
    inner = {name: found[0][:, order] for name, found in outputs.items()}
    mask = sampler.plan.trained_mask_LL[order][:, order].to(torch.uint8)
    return {
        "logits": _as_recorded(sampler, logits),
        "loss": sampler.loss(tokens, labels).detach().view(1),
        "mask": mask if sampler.spec.family == "par" else mask.expand(len(labels), -1, -1),
        "hidden": torch.stack([inner[name] for name in layers]),
        **{f"hidden.{name}": inner[name] for name in layers},
        **{f"head_{letter}": inner[letter] for letter in _heads(sampler)},
    }


@torch.inference_mode()
def _tokenizer(sampler: TokenGridSampler, fixture: Fixture) -> dict[str, Tensor]:
    tokenizer = sampler.tokenizer
    features = tokenizer.features(fixture.inputs["image"].to(sampler.device))
    side = (features.shape[2], features.shape[3])
    ids = tokenizer.quantize.nearest(features)
    return {
        "pre_quant": features,
        "ids": ids,
        "quant": tokenizer.quantize.lookup(ids, side),
        "recon": tokenizer.decode(ids, side),
        "dec_tf": tokenizer.decode(fixture.inputs["tf_ids"].to(sampler.device), side),
    }
