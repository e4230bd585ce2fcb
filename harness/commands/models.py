"""`arvbench models`: what can be sampled, and with which weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table


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
    """Where trained weights come from: "demo", or the official file (`doctor` says where to get it); empty if nobody
    has released any.
    """
    caches: tuple[str, ...]
    """Cache policies it runs with."""
    edits: bool
    """True when it can draw part of an image again (arvbench.adapters.editing)."""


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
    from arvbench.adapters.loading import known_specs, meta_modules

    rows = []
    for name, spec in known_specs():
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
                weights="demo" if spec.demo else checkpoint.transformer_file if checkpoint else "",
                caches=spec.sampler.cache_policies,
                edits=spec.sampler.edits,
            )
        )
    return rows


def _table(rows: list[ModelRow]) -> Table:
    from rich.table import Table

    table = Table(
        title="Models and their official sampling settings",
        caption=(
            "params: of the transformer; VQ: of the tokenizer. Every model also takes random:SEED as weights, for "
            "speed and memory; --json has file names and cache policies."
        ),
        padding=(0, 1, 0, 0),
        box=None,
    )
    table.add_column("model", no_wrap=True)
    for heading in ("px", "steps", "tokens", "params", "VQ", "cfg", "top-k", "top-p"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("weights", no_wrap=True)
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
    return table


def _millions(parameters: int) -> str:
    return f"{parameters / 1e6:,.2f} M" if parameters < 1e7 else f"{parameters / 1e6:,.0f} M"
