"""Training of the demo models: tokenizer and transformer on scikit-learn's digits, on the CPU in minutes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch

from arvbench.adapters import MODELS
from arvbench.adapters.checkpoints import random_tensors
from arvbench.adapters.loading import assemble, build_sampler, bundle_name, load_sampler, meta_modules, usable_device
from arvbench.adapters.pixels import from_uint8
from arvbench.adapters.sampler import ModelSpec, Sampler, WeightsInfo
from arvbench.adapters.settings import SamplingSettings
from arvbench.disk import save_tensors
from arvbench.harness.data.digits import Digits, load_digits_rgb
from arvbench.harness.training import Progress, Training
from arvbench.harness.training.reproducible import provenance, reproducible
from arvbench.harness.training.stages import DemoSettings, official_scales, own_loss
from arvbench.harness.training.tokenizer import Tokenizer, train_tokenizer
from arvbench.harness.training.transformer import Stage, TokenSet, initialise, own_initial_values, train_transformer
from arvbench.harness.training.two_phases import DrawingTokenizer, TwoPhaseSettings, train_in_two_phases
from arvbench.results.schema import QualityRequest

Losses = dict[str, list[float]]
"""Name of a loss -> its value after every epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoTraining(Training):
    """Training of one demo model."""

    name: str
    """Name of the model."""
    settings: DemoSettings = field(default_factory=DemoSettings)
    stages: Callable[[Any, DemoSettings], list[Stage]] = own_loss
    """Function that returns the training stages of the sampler's transformer."""
    encoded_with: Callable[[Sampler], SamplingSettings] = official_scales
    """Settings under which images are encoded once for the transformer."""

    def run(
        self, out_dir: Path, *, device: torch.device | str = "cpu", progress: Progress | None = None
    ) -> dict[str, Any]:
        """Train the model, and write its weights (fp16, named by `bundle_name`) and its record into `out_dir`."""
        out_dir.mkdir(parents=True, exist_ok=True)
        spec, device, digits = MODELS[self.name], usable_device(device), load_digits_rgb()
        train, held_out = shifted(digits.split("train"), self.settings.shifts), digits.split("held-out")
        started = time.perf_counter()
        sampler, losses = self.fit(train, held_out, device=device, progress=progress)
        weights = out_dir / bundle_name(spec)
        save_bundle(sampler, weights)
        wall_s = time.perf_counter() - started
        record = {
            "name": self.name,
            "data": "scikit-learn load_digits as 32 x 32 RGB, train split",
            "settings": asdict(self.settings),
            "transformer": asdict(spec.transformer),
            "tokenizer": asdict(spec.tokenizer),
            "parameters": {part: sum(p.numel() for p in m.parameters()) for part, m in sampler.modules().items()},
            "train_images": len(train.labels_N),
            "held_out_images": len(held_out.labels_N),
            **losses,
            "device": str(device),
            "wall_s": wall_s,
            # Judged on the shipped file, in half precision.
            "quality": judge(build_sampler(spec, weights=str(weights), device=device)),
            **provenance(weights),
        }
        weights.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
        return record

    def fit(
        self, train: Digits, held_out: Digits, *, device: torch.device, progress: Progress | None = None
    ) -> tuple[Sampler, Losses]:
        """Train the model on images from scratch; return it with the losses of tokenizer and transformer."""
        settings = self.settings
        with reproducible(settings.seed, threads=settings.threads):
            order = torch.Generator().manual_seed(settings.seed)
            sampler = _untrained(MODELS[self.name], settings.seed, device)
            tokenizer, transformer = (sampler.modules()[part] for part in ("tokenizer", "transformer"))
            losses: Losses = {}
            images = from_uint8(train.images_N3HW)
            if isinstance(settings.tokenizer, str):
                shipped = load_sampler(settings.tokenizer, weights="demo", device=device).modules()["tokenizer"]
                tokenizer.load_state_dict(shipped.state_dict())
            elif isinstance(settings.tokenizer, TwoPhaseSettings):
                tokenizer.load_state_dict(own_initial_values(tokenizer), strict=False)
                losses |= train_in_two_phases(
                    cast(DrawingTokenizer, tokenizer), images, settings.tokenizer, order=order, progress=progress
                )
            else:
                losses["tokenizer_losses"] = train_tokenizer(
                    cast(Tokenizer, tokenizer), images, settings.tokenizer, order=order, progress=progress
                )
            initialise(transformer, std=settings.transformer.initial_std)
            train_tokens, held_out_tokens = (
                encode(sampler, digits, self.encoded_with(sampler)) for digits in (train, held_out)
            )
            for stage in self.stages(sampler, settings):
                trained, after = train_transformer(
                    transformer, stage, train_tokens, held_out_tokens, order=order, progress=progress
                )
                prefix = "" if stage.title == "transformer" else f"{stage.title}_"
                losses |= {f"{stage.title}_losses": trained, f"{prefix}held_out_losses": after}
        return sampler, losses


def judge(sampler: Sampler, *, images: int = 1000, batch: int = 100) -> dict[str, float]:
    """Measure label accuracy and FID of generated digits, and FID of reconstructions, under `digits-cnn`."""
    from arvbench.harness.data.labels import labels_for
    from arvbench.harness.measure.case_quality import reconstruction_quality
    from arvbench.harness.quality.evaluation import EvaluationRequest, evaluate
    from arvbench.harness.quality.images.live import LiveSource, SeededLabels

    settings = sampler.spec.settings
    source = LiveSource(
        sampler,
        settings,
        SeededLabels(labels=labels_for("balanced", images, sampler.spec.num_classes, seed=0), scheme="balanced"),
        batch=batch,
    )
    request = EvaluationRequest(protocols=("digits-cnn",), reference="digits", metrics=("fid", "label-accuracy"))
    every_scan = QualityRequest(
        protocols=("digits-cnn",), reference="digits", images=len(load_digits_rgb().labels_N), metrics=("fid",)
    )
    numbers = evaluate(source, request).numbers + reconstruction_quality(sampler, every_scan, settings, batch)
    return {number.metric: number.value for number in numbers}


def shifted(digits: Digits, shifts: tuple[tuple[int, int], ...]) -> Digits:
    """Return copies of all images shifted by each (rows, columns); the border repeats its last line."""
    moved = []
    for rows, columns in shifts:
        pad = torch.nn.functional.pad(digits.images_N3HW.float(), (1, 1, 1, 1), mode="replicate")
        height, width = digits.images_N3HW.shape[2:]
        moved.append(pad[:, :, 1 - rows : 1 - rows + height, 1 - columns : 1 - columns + width].to(torch.uint8))
    return Digits(images_N3HW=torch.cat(moved), labels_N=digits.labels_N.repeat(len(shifts)))


def encode(sampler: Sampler, digits: Digits, settings: SamplingSettings) -> TokenSet:
    """Encode all images, in batches."""
    batches = [sampler.encode(from_uint8(batch), settings=settings) for batch in digits.images_N3HW.split(256)]
    return TokenSet(
        tokens=[torch.cat(group) for group in zip(*batches, strict=True)],
        labels_N=digits.labels_N.to(sampler.device),
    )


def _untrained(spec: ModelSpec, seed: int, device: torch.device) -> Sampler:
    modules = meta_modules(spec)
    state = {part: random_tensors(module, seed, device) for part, module in modules.items()}
    return assemble(spec, modules, (state, WeightsInfo(source=f"random:{seed}", random=True)), device=device)


def save_bundle(sampler: Sampler, path: Path) -> None:
    """Write all weights into one file, "transformer." and "tokenizer." before their names, floats as fp16."""
    tensors = {
        f"{part}.{name}": (tensor.half() if tensor.is_floating_point() else tensor.clone()).contiguous().cpu()
        for part, module in sampler.modules().items()
        for name, tensor in module.state_dict().items()
    }
    save_tensors(tensors, path)
