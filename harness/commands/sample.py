"""`arvbench sample`: draw images and write them to files that `arvbench eval` and other evaluators read."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from arvbench.errors import UserError
from arvbench.harness.commands.choices import CACHE_HELP, DTYPE_HELP, METHOD_HELP
from arvbench.harness.commands.options import Device, settings_by_key
from arvbench.kernels.backends import BackendName

if TYPE_CHECKING:
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
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"],
        typer.Option(help=DTYPE_HELP),
    ] = "float32",
    backend: Annotated[BackendName, typer.Option(help="Implementation.")] = "optimized",
    cache: Annotated[str | None, typer.Option(help=f"{CACHE_HELP}  [default: the backend's]")] = None,
    method: Annotated[
        str | None,
        typer.Option(metavar="NAME:...", help=METHOD_HELP),
    ] = None,
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
    from arvbench.harness.quality.images.write import check_target

    overrides = settings_by_key(settings, prefix="settings.", example="settings.cfg=2")
    how = {"device": device, "dtype": dtype, "backend": backend}
    choice = ModelChoice(name=model, method=method, weights=weights, settings=overrides, **how)
    request = ImageRequest(count=images, labels=labels, seed=seed, resize=resize, batch=batch, cache=cache)
    check_target(out, replace=force)
    written = _write(_open(choice, request), out, replace=force) | {"seed": seed, "batch": batch}
    if as_json:
        typer.echo(json.dumps(written, indent=2))
        return
    height, width = written["shape"]
    typer.echo(f"wrote {images:,} images of {width} x {height} to {out} in {written['wall_s']:.1f} s")
    typer.echo(f"labels {labels}, seed {seed}, images sha256 {written['images_sha256'][:12]}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChoice:
    """A model to load, and its sampling settings."""

    name: str
    method: str | None
    """Method over its schedule."""
    weights: str | None
    """None takes the demo weights, for a model that has them."""
    settings: Mapping[str, Any]
    """Changes of the official settings."""
    device: str
    dtype: str
    backend: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRequest:
    """Images to draw."""

    count: int
    labels: str
    """Label scheme."""
    seed: int
    resize: str | None
    batch: int
    cache: str | None
    """Cache policy; None takes that of the backend."""


def _open(choice: ModelChoice, request: ImageRequest) -> LiveSource:
    """Check the options, then load the model; images are drawn when they are read."""
    import torch

    from arvbench.adapters.loading import build_sampler, usable_device
    from arvbench.adapters.methods.request import spec_of
    from arvbench.harness.data.labels import labels_for
    from arvbench.harness.machine.limits import set_threads
    from arvbench.harness.quality.images.live import LiveSource, SeededLabels
    from arvbench.harness.quality.images.resize import parse_resize
    from arvbench.harness.suites.suite import sampling_settings

    spec = spec_of(choice.name, choice.method)
    parse_resize(request.resize)
    settings = sampling_settings(spec, choice.settings)
    spec.sampler.check_settings(spec, settings)  # before gigabytes are read
    if request.cache is not None:
        spec.sampler.check_cache(spec, request.cache, settings)
    labels = labels_for(request.labels, request.count, spec.num_classes, request.seed)
    if choice.weights is None and not spec.demo:
        raise UserError(
            f"{spec.name} needs --weights: a folder with its official files, or hub (or random:0, which draws noise)"
        )
    device = usable_device(choice.device)
    set_threads(None)
    sampler = build_sampler(
        spec,
        weights=choice.weights or "demo",
        device=device,
        dtype=getattr(torch, choice.dtype),
        backend=choice.backend,
    )
    seeded = SeededLabels(labels=labels, scheme=request.labels, run_seed=request.seed)
    return LiveSource(sampler, settings, seeded, batch=request.batch, cache_policy=request.cache, resize=request.resize)


def _write(source: LiveSource, out: Path, *, replace: bool) -> dict[str, Any]:
    """Draw and write the images under a progress bar, and return their record."""
    from rich.console import Console

    from arvbench.harness.commands.progress import ProgressBar
    from arvbench.harness.jobs import Event
    from arvbench.harness.quality.images.write import write_images

    console = Console(stderr=True)
    if source.sampler.weights.random:
        console.print("warning: random weights draw noise; it has no quality", style="yellow", highlight=False)
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
