"""`arvbench models`: what can be sampled, and with which weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated

import typer


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow:
    """One line of the table."""

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
    """Where trained weights come from: "demo", or the hub repository and file."""


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of the table.")] = False,
) -> None:
    """List the known models with their size, steps and official sampling settings.

    Examples:

      arvbench models

      arvbench models --json
    """
    from dataclasses import asdict

    rows = model_rows()
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows], indent=2))
        return
    from rich.console import Console

    Console().print(_table(rows))


def model_rows() -> list[ModelRow]:
    """One row per known model; parameters are counted on modules without memory."""
    from arvbench.adapters import MODELS
    from arvbench.adapters.loading import meta_modules

    rows = []
    for name, spec in MODELS.items():
        sizes = {part: sum(p.numel() for p in m.parameters()) for part, m in meta_modules(spec).items()}
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
                weights=f"{checkpoint.hub_repo} {checkpoint.transformer_file}" if checkpoint else "demo",
            )
        )
    return rows


def _table(rows: list[ModelRow]):  # type: ignore[no-untyped-def]  # rich is imported where a table is printed
    from rich.table import Table

    table = Table(title="Models", caption="Any model also takes --weights random:SEED, for speed and memory.")
    for heading, justify in (
        ("model", "left"),
        ("family", "left"),
        ("px", "right"),
        ("classes", "right"),
        ("steps", "right"),
        ("tokens", "right"),
        ("transformer", "right"),
        ("tokenizer", "right"),
        ("cfg", "right"),
        ("top-k", "right"),
        ("top-p", "right"),
        ("trained weights", "left"),
    ):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for row in rows:
        table.add_row(
            row.name,
            row.family,
            str(row.image_px),
            str(row.classes),
            str(row.steps),
            str(row.tokens),
            f"{row.transformer_parameters:,}",
            f"{row.tokenizer_parameters:,}",
            f"{row.cfg:g}",
            "all" if row.top_k is None else str(row.top_k),
            "all" if row.top_p is None else f"{row.top_p:g}",
            row.weights,
        )
    return table
