"""`arvbench models`: list the models with their sizes, official settings and sources of weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from arvbench.errors import HostError
from arvbench.paths import printable


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
) -> None:
    """List the known models with their size, steps and official sampling settings.

    Examples:

      arvbench models

      arvbench models --json
    """
    rows, unusable = model_rows()
    for reason in unusable:
        typer.echo(f"left out: {printable(reason)}", err=True)
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        _print_table(rows)


def model_rows() -> tuple[list[ModelRow], list[str]]:
    """Return one row per usable model, and the reasons why others are not; modules are built on the meta device."""
    from arvbench.adapters.loading import known_specs, meta_modules, unusable_models

    rows, unusable = [], [*unusable_models().values()]
    for name, spec in known_specs():
        try:
            sizes = {part: sum(p.numel() for p in module.parameters()) for part, module in meta_modules(spec).items()}
        except HostError as error:
            unusable.append(str(error))
            continue
        checkpoint = spec.checkpoint
        rows.append(
            ModelRow(
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
        )
    return rows, unusable


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
    Console().print(table)


def _millions(parameters: int) -> str:
    return f"{parameters / 1e6:,.2f} M" if parameters < 1e7 else f"{parameters / 1e6:,.0f} M"
