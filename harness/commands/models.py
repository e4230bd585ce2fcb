"""`arvbench models`: list the models with their sizes, official settings and sources of weights.

Rows of built-in models are kept in `models.json`: to import torch and to build every model takes seconds. A row is made
by `row_of`, a test compares every kept one with it, and `python tests/support/model_rows.py` writes them anew.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from arvbench.adapters.registry import MODELS
from arvbench.errors import ArvbenchError, UserError
from arvbench.harness.commands.choices import exactness_rows
from arvbench.paths import printable

KEPT_ROWS = Path(__file__).with_name("models.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow:
    """One model of the table, with its official sampling settings."""

    name: str
    family: str
    image_px: int
    classes: int
    steps: int
    tokens: int
    transformer_parameters: int
    tokenizer_parameters: int
    cfg: float
    top_k: int | None
    top_p: float | None
    weights: str
    """Source of trained weights: "demo", or the official file (`doctor` says where to get it); empty if none is
    released.
    """
    caches: tuple[str, ...]
    """Cache policies that it can run with."""
    edits: bool
    """True for a model that can redraw part of an image (arvbench.adapters.editing)."""


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of the table.")] = False,
    floors: Annotated[
        bool, typer.Option("--floors", help="Print the least time of an image instead, on this processor.")
    ] = False,
    gpu: Annotated[
        str | None, typer.Option(metavar="NAME", help="With --floors: on a GPU of the table, such as H200-SXM.")
    ] = None,
) -> None:
    """List the known models with their size, steps and official sampling settings.

    Examples:

      arvbench models

      arvbench models --json

      arvbench models --floors --gpu H200-SXM
    """
    _check_options(as_json=as_json, floors=floors, gpu=gpu)
    if floors:
        from arvbench.harness.commands.floors import print_floors

        print_floors(gpu)
        return
    rows, unusable = model_rows()
    for reason in unusable:
        typer.echo(f"left out: {printable(reason)}", err=True)
    if as_json:
        typer.echo(as_json_list(rows))
    else:
        _print_table(rows)


def _check_options(*, as_json: bool, floors: bool, gpu: str | None) -> None:
    if gpu is not None and not floors:
        raise UserError("--gpu names the GPU of --floors: give both")
    if floors and as_json:
        raise UserError("--floors has no JSON list: leave out --json")


def model_rows() -> tuple[list[ModelRow], list[str]]:
    """Return one row per usable model, and the reasons why others are not."""
    kept = kept_rows()
    rows, unusable = [], []
    for name in MODELS:
        try:
            rows.append(kept[name] if name in kept else row_of(name))
        except ArvbenchError as error:
            unusable.append(str(error))
    return rows, unusable


def kept_rows() -> dict[str, ModelRow]:
    """Return the rows in `models.json` by name."""
    rows = [ModelRow(**row | {"caches": tuple(row["caches"])}) for row in json.loads(KEPT_ROWS.read_text())]
    return {row.name: row for row in rows}


def row_of(name: str) -> ModelRow:
    """Describe a model; its parameters are counted on the meta device. Raises HostError for one that is unusable."""
    from arvbench.adapters.loading import meta_modules

    spec = MODELS[name]
    sizes = {part: sum(p.numel() for p in module.parameters()) for part, module in meta_modules(spec).items()}
    checkpoint = spec.checkpoint
    return ModelRow(
        name=name,
        family=spec.family,
        image_px=spec.image_px,
        classes=spec.num_classes,
        steps=spec.steps,
        tokens=spec.tokens,
        transformer_parameters=sizes["transformer"],
        tokenizer_parameters=sizes["tokenizer"],
        cfg=spec.settings.cfg,
        top_k=spec.settings.top_k,
        top_p=spec.settings.top_p,
        weights="demo" if spec.demo else checkpoint.transformer_file if checkpoint else "",
        caches=spec.sampler.cache_policies(),
        edits=spec.sampler.edits,
    )


def as_json_list(rows: Sequence[ModelRow]) -> str:
    """Return the JSON list of `--json`."""
    return json.dumps([asdict(row) for row in rows], indent=2)


def _print_table(rows: Sequence[ModelRow]) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    numbers = ("px", "steps", "tokens", "params", "VQ", "cfg", "top-k", "top-p")
    table = Table(
        Column("model", no_wrap=True),
        *(Column(heading, justify="right", no_wrap=True) for heading in numbers),
        Column("weights", no_wrap=True),
        title="Models and their official sampling settings",
        caption=(
            "params: of the transformer; VQ: of the tokenizer. Every model also takes random:SEED as weights, for "
            "speed and memory; --json has file names and cache policies."
        ),
        padding=(0, 1, 0, 0),
        box=None,
    )
    for row in rows:
        table.add_row(
            row.name,
            str(row.image_px),
            str(row.steps),
            str(row.tokens),
            _millions(row.transformer_parameters),
            _millions(row.tokenizer_parameters),
            f"{row.cfg:g}",
            "all" if row.top_k is None else str(row.top_k),
            "all" if row.top_p is None else f"{row.top_p:g}",
            row.weights if row.weights in ("demo", "") else "official",
        )
    console = Console()
    console.print(table)
    console.print()
    for choice, text in exactness_rows():
        console.print(f"{choice:<8} {text}", markup=False, highlight=False)


def _millions(parameters: int) -> str:
    return f"{parameters / 1e6:,.2f} M" if parameters < 1e7 else f"{parameters / 1e6:,.0f} M"
