"""`arvbench sample`: draw images and keep them, for `arvbench eval` or anybody else's evaluator."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from arvbench.errors import UserError
from arvbench.harness.commands.options import Device, settings_by_key
from arvbench.kernels.backends import BackendName

if TYPE_CHECKING:
    from arvbench.adapters.sampler import ModelSpec, Sampler
    from arvbench.adapters.settings import SamplingSettings
    from arvbench.harness.quality.images.live import LiveSource


def sample(
    model: Annotated[str, typer.Argument(help="A known model, such as var-d16 or demo/var.")],
    out: Annotated[
        Path, typer.Option(metavar="PATH", help="samples.npz, x.safetensors, or a folder for PNG (no ending).")
    ],
    images: Annotated[int, typer.Option(min=1, help="How many.")],
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Folder of official files, or demo, hub, random:SEED.  [default: demo, where there is one]",
        ),
    ] = None,
    labels: Annotated[
        str, typer.Option(help="balanced (as many of every class, in order), balanced-shuffled, uniform (drawn).")
    ] = "balanced",
    seed: Annotated[int, typer.Option(help="Of noise and labels. Image i follows from seed and i.")] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Sampling setting, such as settings.cfg=2; repeatable."),
    ] = None,
    resize: Annotated[
        str | None, typer.Option(metavar="RULE", help="Before floats become bytes, such as bicubic:256.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images drawn at once.")] = 16,
    device: Device = "cpu",
    dtype: Annotated[Literal["float32", "bfloat16", "float16"], typer.Option(help="Of the model.")] = "float32",
    backend: Annotated[BackendName, typer.Option(help="Implementation.")] = "optimized",
    cache: Annotated[str | None, typer.Option(help="Cache policy.  [default: the backend's]")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace samples that are there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written, as JSON.")] = False,
) -> None:
    """Draw images with MODEL under its official settings and write them, with labels, seeds and how they were made.

    The file appears when it is complete. An .npz is what the ADM evaluator takes: arr_0 uint8 N x H x W x 3.

    Examples:

      arvbench sample demo/var --images 1000 --out samples.npz

      arvbench sample var-d16 --weights ~/ckpts --device cuda --batch 64 --images 50000 --out var-d16.npz

      arvbench sample demo/nar --images 100 --labels uniform --set settings.cfg=3 --out pngs
    """
    from rich.console import Console

    from arvbench.adapters import MODELS
    from arvbench.harness.data.labels import labels_for
    from arvbench.harness.quality.images.live import LiveSource, SeededLabels
    from arvbench.harness.quality.images.resize import parse_resize
    from arvbench.harness.quality.images.write import check_target

    errors = Console(stderr=True)
    spec = MODELS[model]
    # What can be wrong is found before the model is loaded.
    check_target(out, replace=force)
    parse_resize(resize)
    chosen = _settings(spec, settings or ())
    drawn_labels = labels_for(labels, images, spec.num_classes, seed)
    source = LiveSource(
        _sampler(spec, weights, device=device, dtype=dtype, backend=backend),
        chosen,
        SeededLabels(labels=drawn_labels, scheme=labels, run_seed=seed),
        batch=batch,
        cache_policy=cache,
        resize=resize,
    )
    if source.sampler.weights.random:
        errors.print("warning: random weights draw noise; it has no quality", style="yellow", highlight=False)
    written = _write(source, out, replace=force, console=errors)
    if as_json:
        typer.echo(json.dumps(written | {"seed": seed, "batch": batch}, indent=2))
        return
    typer.echo(
        f"wrote {images:,} images of {source.shape[1]} x {source.shape[0]} to {out} in {written['wall_s']:.1f} s"
    )
    typer.echo(f"labels {labels}, seed {seed}, images sha256 {written['images_sha256'][:12]}")


def _settings(spec: ModelSpec, given: Sequence[str]) -> SamplingSettings:
    """The model's official settings with those of the command line on top."""
    from arvbench.harness.suites.suite import sampling_settings

    return sampling_settings(spec, settings_by_key(given, prefix="settings.", example="settings.cfg=2"))


def _sampler(spec: ModelSpec, weights: str | None, *, device: str, dtype: str, backend: str) -> Sampler:
    import torch

    from arvbench.adapters.loading import build_sampler, usable_device
    from arvbench.harness.machine.limits import set_threads

    if weights is None and not spec.demo:
        raise UserError(
            f"{spec.name} needs --weights: a folder with its official files, or hub (or random:0, which draws noise)"
        )
    where = usable_device(device)
    set_threads(None)
    return build_sampler(spec, weights=weights or "demo", device=where, dtype=getattr(torch, dtype), backend=backend)


def _write(source: LiveSource, out: Path, *, replace: bool, console: Any) -> dict[str, Any]:
    """Draw and write under a progress bar; returns what is said about it."""
    from arvbench.harness.commands.progress import ProgressBar
    from arvbench.harness.jobs import Event
    from arvbench.harness.quality.images.write import write_images

    start = time.perf_counter()
    with ProgressBar(console) as listener:

        def progress(done: int) -> None:
            listener(Event(phase=source.name, done=done, total=source.count))

        progress(0)
        digest = write_images(out, source, replace=replace, progress=progress)
    official = source.sampler.spec.settings.model_dump(mode="json")
    settings = source.settings.model_dump(mode="json")
    return {
        "path": str(out),
        "images": source.count,
        "shape": list(source.shape),
        "images_sha256": digest,
        "model": source.name,
        "weights": source.sampler.weights.source,
        "weights_sha256": dict(source.sampler.weights.sha256),
        "settings": settings,
        "settings_deviations": {key: value for key, value in settings.items() if value != official[key]},
        "labels": source.provenance.labels,
        "uint8_rule": source.provenance.uint8_rule,
        "resize": source.provenance.resize,
        "dtype": str(source.sampler.dtype).removeprefix("torch."),
        "device": str(source.sampler.device),
        "backend": source.sampler.backend,
        "wall_s": time.perf_counter() - start,
    }
