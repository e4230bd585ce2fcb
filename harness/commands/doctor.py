"""`arvbench doctor`: print everything that this machine can or cannot run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from arvbench.harness.diagnosis import Check


def doctor(
    weights: Annotated[
        Path | None,
        typer.Option(metavar="DIR", envvar="ARVBENCH_WEIGHTS", help="Folder to look for official weight files in."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of the table.")] = False,
) -> None:
    """Show what this machine can run: libraries, GPU, attention backends, kernels, weights.

    Attention backends are tried, not read off a list. Nothing is downloaded.

    Examples:

      arvbench doctor

      arvbench doctor --weights ~/ckpts --json
    """
    from arvbench.harness.diagnosis import diagnose

    checks = diagnose(weights)
    if as_json:
        typer.echo(json.dumps([check.model_dump() for check in checks], indent=2))
    else:
        _print_table(checks)


def _print_table(checks: Sequence[Check]) -> None:
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    table = Table("", "what", "", Column("detail", overflow="fold"), box=None, pad_edge=False)
    marks = {True: Text("yes", "green"), False: Text("no", "yellow"), None: Text()}
    topic = ""
    for check in checks:
        heading = "" if check.topic == topic else check.topic
        topic = check.topic
        table.add_row(Text(heading, style="bold"), Text(check.name), marks[check.ok], Text(check.detail))
    Console().print(table)
