"""`arvbench doctor`: what this machine can run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


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

    findings = diagnose(weights)
    if as_json:
        typer.echo(json.dumps([finding.model_dump() for finding in findings], indent=2))
        return
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    table = Table("", "what", "", Column("detail", overflow="fold"), box=None, pad_edge=False)
    marks = {True: ("yes", "green"), False: ("no", "yellow"), None: ("", "")}
    topic = ""
    for finding in findings:
        text, style = marks[finding.ok]
        heading = "" if finding.topic == topic else finding.topic
        topic = finding.topic
        table.add_row(Text(heading, style="bold"), Text(finding.name), Text(text, style=style), Text(finding.detail))
    Console().print(table)
