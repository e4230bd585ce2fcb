"""Training of the demo models: tokenizer and transformer on scikit-learn's digits, on the CPU in minutes."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor

from arvbench.adapters import MODELS
from arvbench.adapters.checkpoints import random_tensors, sha256_of
from arvbench.adapters.loading import assemble, build_sampler, meta_modules, usable_device
from arvbench.adapters.pixels import from_uint8
from arvbench.adapters.sampler import ModelSpec, Sampler, WeightsInfo
from arvbench.adapters.settings import SamplingSettings
from arvbench.harness.data.digits import Digits, load_digits_rgb
from arvbench.harness.training import Progress
from arvbench.harness.training.reproducible import reproducible
from arvbench.harness.training.stages import DEMO_TRAININGS, DemoTraining, settings_for_tokens, stages
from arvbench.harness.training.tokenizer import Tokenizer, train_tokenizer
from arvbench.harness.training.transformer import initialise, train_transformer
from arvbench.results.schema import QualityRequest


def train_demo(
    name: str,
    out_dir: Path,
    *,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    settings: DemoTraining | None = None,
) -> dict[str, Any]:
    """Train the demo model `name`; write <family>.safetensors (fp16) and <family>.json into `out_dir`.

    Returns the record. On the CPU the same settings and library give the same weights.
    """
    settings = settings or DEMO_TRAININGS[name]
    out_dir.mkdir(parents=True, exist_ok=True)
    spec, device = MODELS[name], usable_device(device)
    digits = load_digits_rgb()
    train, held_out = shifted(digits.split("train"), settings.shifts), digits.split("held-out")
    started = time.perf_counter()
    with reproducible(settings.seed, threads=settings.threads):
        order = torch.Generator().manual_seed(settings.seed)
        sampler = _untrained(spec, settings.seed, device)
        tokenizer_losses = train_tokenizer(
            cast(Tokenizer, sampler.modules()["tokenizer"]),
            from_uint8(train.images_N3HW),
            settings.tokenizer,
            order=order,
            progress=progress,
        )
        initialise(sampler.modules()["transformer"], std=settings.transformer.initial_std)
        losses = _train_stages(sampler, train, held_out, settings, order, progress)
    weights = out_dir / f"{spec.family}.safetensors"
    save_bundle(sampler, weights)
    wall_s = time.perf_counter() - started
    record = {
        "name": spec.name,
        "data": "scikit-learn load_digits as 32 x 32 RGB, train split",
        "settings": asdict(settings),
        "transformer": asdict(spec.transformer),
        "tokenizer": asdict(spec.tokenizer),
        "parameters": {part: sum(p.numel() for p in m.parameters()) for part, m in sampler.modules().items()},
        "train_images": len(train.labels_N),
        "held_out_images": len(held_out.labels_N),
        "tokenizer_losses": tokenizer_losses,
        **losses,
        "device": str(device),
        "wall_s": wall_s,
        # Of the file as it is shipped, in half precision.
        "quality": judge(build_sampler(spec, weights=str(weights), device=device)),
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in ("torch", "numpy", "scikit-learn", "safetensors")},
        "sha256": {weights.name: sha256_of(weights)},
    }
    (out_dir / f"{spec.family}.json").write_text(json.dumps(record, indent=2) + "\n")
    return record


def _train_stages(
    sampler: Sampler,
    train: Digits,
    held_out: Digits,
    settings: DemoTraining,
    order: torch.Generator,
    progress: Progress | None,
) -> dict[str, list[float]]:
    """Train the transformer stage by stage; the losses of every epoch, by name."""
    token_settings = settings_for_tokens(sampler)
    tokens, held_out_tokens = (encode(sampler, data, token_settings) for data in (train, held_out))
    labels, held_out_labels = (data.labels_N.to(sampler.device) for data in (train, held_out))
    losses: dict[str, list[float]] = {}
    for stage in stages(sampler, settings):
        trained, held_out_losses = train_transformer(
            sampler,
            tokens,
            labels,
            stage.training,
            held_out=(held_out_tokens, held_out_labels),
            order=order,
            progress=progress,
            loss=stage.loss,
            trained=stage.trained,
            title=stage.title,
        )
        prefix = "" if stage.title == "transformer" else f"{stage.title}_"
        losses |= {f"{stage.title}_losses": trained, f"{prefix}held_out_losses": held_out_losses}
    return losses


train_var = partial(train_demo, "demo/var")
train_mvar = partial(train_demo, "demo/mvar")
train_hmar = partial(train_demo, "demo/hmar")
train_flexvar = partial(train_demo, "demo/flexvar")
train_nar = partial(train_demo, "demo/nar")
train_llamagen = partial(train_demo, "demo/llamagen")
train_par = partial(train_demo, "demo/par")


def judge(sampler: Sampler, *, images: int = 1000, batch: int = 100) -> dict[str, float]:
    """Label accuracy and FID of generated digits, and FID of reconstructions, under `digits-cnn`."""
    from arvbench.harness.data.labels import labels_for
    from arvbench.harness.measure.case_quality import reconstruction_quality
    from arvbench.harness.quality.evaluation import EvaluationRequest, evaluate
    from arvbench.harness.quality.images.live import LiveSource

    settings = sampler.spec.settings
    source = LiveSource(
        sampler,
        settings,
        labels=labels_for("balanced", images, sampler.spec.num_classes, seed=0),
        label_scheme="balanced",
        batch=batch,
    )
    asked = EvaluationRequest(protocols=("digits-cnn",), reference="digits", metrics=("fid", "label-accuracy"))
    every_scan = QualityRequest(
        protocols=("digits-cnn",), reference="digits", images=len(load_digits_rgb().labels_N), metrics=("fid",)
    )
    numbers = evaluate(source, asked).numbers + reconstruction_quality(sampler, every_scan, settings, batch)
    return {number.metric: number.value for number in numbers}


def shifted(digits: Digits, shifts: tuple[tuple[int, int], ...]) -> Digits:
    """Return copies of all images moved by each of (rows, columns); the border repeats its last line."""
    moved = []
    for rows, columns in shifts:
        pad = torch.nn.functional.pad(digits.images_N3HW.float(), (1, 1, 1, 1), mode="replicate")
        height, width = digits.images_N3HW.shape[2:]
        moved.append(pad[:, :, 1 - rows : 1 - rows + height, 1 - columns : 1 - columns + width].to(torch.uint8))
    return Digits(images_N3HW=torch.cat(moved), labels_N=digits.labels_N.repeat(len(shifts)))


def encode(sampler: Sampler, digits: Digits, settings: SamplingSettings | None = None) -> list[Tensor]:
    """Tokens of all images per group, each (N, l)."""
    batches = [sampler.encode(from_uint8(batch), settings=settings) for batch in digits.images_N3HW.split(256)]
    return [torch.cat(group) for group in zip(*batches, strict=True)]


def _untrained(spec: ModelSpec, seed: int, device: torch.device) -> Sampler:
    state = {part: random_tensors(module, seed, device) for part, module in meta_modules(spec).items()}
    return assemble(spec, state, WeightsInfo(source=f"random:{seed}", random=True), device=device)


def save_bundle(sampler: Sampler, path: Path) -> None:
    """Write all weights into one file, "transformer." and "tokenizer." before their names, floats as fp16."""
    tensors: Mapping[str, Tensor] = {
        f"{part}.{name}": (tensor.half() if tensor.is_floating_point() else tensor.clone()).contiguous().cpu()
        for part, module in sampler.modules().items()
        for name, tensor in module.state_dict().items()
    }
    save_file(dict(tensors), path)
