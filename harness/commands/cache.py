"""`arvbench cache calibrate`: find the drafters and the contextual heads of a model, for the policies that use them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from arvbench.errors import UserError
from arvbench.harness.commands.options import Device, settings_by_key
from arvbench.paths import printable

if TYPE_CHECKING:
    from arvbench.adapters.cache.calibrate import CalibrationRequest
    from arvbench.adapters.cache.calibration import Calibration
    from arvbench.adapters.sampler import ModelSpec

GROUP_HELP = """Calibrate cache policies that treat layers or heads of a model unlike: scalekv, hack.

  Examples:

    arvbench cache calibrate demo/var --out var.json
"""


def calibrate(
    model: Annotated[str, typer.Argument(help="A model that draws whole scales, such as var-d16 or demo/var.")],
    out: Annotated[Path, typer.Option(metavar="FILE.json", help="Where to write the calibration.")],
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Folder of official files, or demo, hub, random:SEED.  [default: demo, where there is one]",
        ),
    ] = None,
    images: Annotated[int, typer.Option(min=1, max=100_000, help="Images to draw, of spread-out classes.")] = 50,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    drafters: Annotated[
        float, typer.Option(metavar="SHARE", help="Share of the pairs of layer and scale that are drafters (scalekv).")
    ] = 0.0625,
    contextual: Annotated[
        float, typer.Option(metavar="SHARE", help="Share of all heads that are contextual (hack).")
    ] = 0.5,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Sampling setting, such as settings.cfg=2; repeatable."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images drawn at once.")] = 8,
    device: Device = "cpu",
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the calibration as JSON.")] = False,
) -> None:
    """Draw images with MODEL, and write which layers are drafters (scalekv) and which heads are contextual (hack).

    The file serves the weights that it was made with, and no others.

    Examples:

      arvbench cache calibrate demo/var --out var.json

      arvbench run demo --models demo/var --set cache=scalekv:0.5,window=4,calibration=var.json

      arvbench cache calibrate hmar-d16 --weights ~/ckpts --set settings.kv_cache=true --out hmar.json
    """
    from arvbench.adapters.cache.calibrate import CalibrationRequest
    from arvbench.adapters.registry import MODELS
    from arvbench.files import write_whole
    from arvbench.harness.measure.correctness import spread_labels

    spec, path = MODELS[model], _target(out, force=force)
    labels = spread_labels(images, spec.num_classes)
    shares = {"drafters": drafters, "contextual": contextual}
    request = CalibrationRequest(labels=labels, seed=seed, batch=batch, **shares)
    overrides = settings_by_key(settings, prefix="settings.", example="settings.cfg=2")
    found, text = _calibrated(spec, weights, device, overrides, request)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)
    typer.echo(text if as_json else _summary(found, path))


def _target(out: Path, *, force: bool) -> Path:
    """Return the path to write. Raises UserError for one that is taken, cannot be written, or has another ending."""
    from arvbench.harness.quality.images.write import writable_folder
    from arvbench.paths import user_path

    path = user_path(out)
    if path.suffix != ".json":
        raise UserError(f"{path}: a calibration is a .json file")
    if path.exists() and not (force and path.is_file()):
        raise UserError(f"{path} already exists; choose another name, or --force")
    writable_folder(path)
    return path


def _calibrated(
    spec: ModelSpec, weights: str | None, device: str, overrides: Mapping[str, Any], request: CalibrationRequest
) -> tuple[Calibration, str]:
    """Return the calibration and the text of its file."""
    from arvbench.adapters.cache.calibrate import calibrate as calibrate_sampler
    from arvbench.adapters.cache.calibration import write_calibration
    from arvbench.adapters.loading import build_sampler
    from arvbench.harness.machine.limits import set_threads
    from arvbench.harness.suites.suite import sampling_settings

    sampling = sampling_settings(spec, overrides)
    spec.sampler.check_settings(spec, sampling)
    spec.sampler.check_cache(spec, "hack:1.0", sampling)  # before gigabytes are read
    if weights is None and not spec.demo:
        raise UserError(
            f"{spec.name} needs --weights: a folder with its official files, or hub (or random:0, to try it out)"
        )
    set_threads(None)
    sampler = build_sampler(spec, weights=weights or "demo", device=device)
    found = calibrate_sampler(sampler, sampling, request)
    return found, write_calibration(found)


def _summary(found: Calibration, path: Path) -> str:
    """Say which layers and heads were found, and how a case names the file."""
    pairs = [f"scale {scale}: {', '.join(map(str, layers))}" for scale, layers in sorted(found.drafters.items())]
    heads = sum(map(len, found.contextual))
    return (
        f"wrote {printable(path)} for {found.model}, from {found.made['images']} images\n"
        f"drafter layers (scalekv), scales and layers from 0: {'; '.join(pairs)}\n"
        f"contextual heads (hack): {heads} of {found.layers * found.heads}\n"
        f"use it as cache=scalekv:0.5,calibration={printable(path)} or hack:0.5,calibration={printable(path)}"
    )
