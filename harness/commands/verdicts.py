"""Printing of a verdict, and the exit code that it gives: for `check` and `compare`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from arvbench.results.verdict import Check

AllowInconclusive = Annotated[bool, typer.Option("--allow-inconclusive", help="Exit with 0 where nothing can be said.")]
VerdictJson = Annotated[bool, typer.Option("--json", help="Print the verdict as JSON, nothing else.")]


def conclude(check: Check, *, as_json: bool, allow_inconclusive: bool) -> None:
    """Print a verdict, and end the program with its exit code."""
    from rich.console import Console

    from arvbench.errors import ExitCode
    from arvbench.harness.check.outputs.terminal import check_table

    if as_json:
        typer.echo(check.model_dump_json(indent=2))
    else:
        console = Console()
        console.print(check_table(check, width=console.width))
    allowed = allow_inconclusive and check.exit_code == ExitCode.INCONCLUSIVE
    if check.exit_code and not allowed:
        raise typer.Exit(check.exit_code)
