"""`arvbench train`: train again the weights that are part of this package."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from arvbench.harness.commands.options import Device


def train(
    name: Annotated[str, typer.Argument(help="A demo model (demo/var, demo/nar, ...) or digits-cnn.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for weights and record.")] = Path("trained"),
    device: Device = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print the training record as JSON.")] = False,
) -> None:
    """Train NAME from scratch, seeded, and write its weights and the record of the training.

    On the CPU the same versions give the same weights.

    Examples:

      arvbench train demo/var

      arvbench train demo/var --out trained && arvbench run demo --weights trained/var.safetensors
    """
    from arvbench.harness.training.output import staged
    from arvbench.harness.training.trainings import training_named

    training = training_named(name)
    with staged(out) as folder:
        record = training.run(folder, device=device, progress=_print_epoch)
    if as_json:
        typer.echo(json.dumps(record, indent=2))
        return
    typer.echo(f"trained {name} in {record['wall_s']:.0f} s on {record['device']}; weights and record are in {out}")
    for metric, value in record.get("quality", {}).items():
        typer.echo(f"  {metric}: {value:.4g}")


def _print_epoch(done: int, total: int, numbers: Mapping[str, float]) -> None:
    typer.echo(f"epoch {done}/{total}: {', '.join(f'{name} {value:.4f}' for name, value in numbers.items())}", err=True)
