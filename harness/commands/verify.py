"""`arvbench verify`: replay what the official code produced, and compare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from arvbench.harness.commands.options import Device
from arvbench.kernels.backends import BackendName

if TYPE_CHECKING:
    from rich.table import Table

    from arvbench.harness.verify.fixture import Check

EXIT_MISMATCH = 1


def verify(
    fixtures: Annotated[list[Path], typer.Argument(metavar="FIXTURE.json...", help="Fixtures, full or recipe.")],
    backend: Annotated[BackendName, typer.Option(help="Which implementation to put to the test.")] = "reference",
    device: Device = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of the table.")] = False,
) -> None:
    """Rebuild the model of each FIXTURE, replay every recorded run and compare each recorded output.

    Token ids must be equal; floats agree within the stated tolerance. Seeded runs are skipped, and said to be, where
    torch draws another random stream than where they were recorded. Exit code: 0 nothing failed, 1 a mismatch, 2 an
    unusable fixture (the others are still shown).

    Examples:

      arvbench verify tests/golden/recipe/var_tiny_a.json

      arvbench verify fixtures/*.json --backend optimized --json
    """
    from dataclasses import asdict

    from arvbench.harness.verify import verify as verify_fixture
    from arvbench.harness.verify.fixture import FixtureError

    checks: list[Check] = []
    unusable: list[FixtureError] = []
    for path in fixtures:
        try:
            checks += verify_fixture(path, backend=backend, device=device)
        except FixtureError as error:
            unusable.append(error)
    if as_json and (checks or not unusable):
        typer.echo(json.dumps([asdict(check) for check in checks], indent=2, allow_nan=False))
    elif checks:
        from rich.console import Console

        console = Console()
        console.print(_table(checks))
        console.print(_summary(checks), highlight=False)
    for reason in unusable[:-1]:
        typer.echo(f"error: {reason}", err=True)
    if unusable:
        raise unusable[-1]
    if any(check.passed is False for check in checks):
        raise typer.Exit(EXIT_MISMATCH)


def _table(checks: list[Check]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Against the official code")
    table.add_column("fixture")
    table.add_column("check")
    table.add_column("max |difference|", justify="right")
    table.add_column("tolerance", justify="right")
    table.add_column("result")
    for check in checks:
        word, style = {True: ("pass", "green"), False: ("FAIL", "bold red"), None: ("skipped", "yellow")}[check.passed]
        result = Text(word, style=style)
        if check.note:
            result.append(f" ({check.note})", style="default")
        table.add_row(
            Text(check.fixture),
            Text(check.check),
            "" if check.max_abs_diff is None else f"{check.max_abs_diff:.2g}",
            "equal" if check.tolerance == 0 else f"{check.tolerance:g}",
            result,
        )
    return table


def _summary(checks: list[Check]) -> str:
    counts = {word: sum(check.passed is verdict for check in checks) for word, verdict in _VERDICTS.items()}
    return ", ".join(f"{count} {word}" for word, count in counts.items() if count) or "nothing to check"


_VERDICTS = {"passed": True, "failed": False, "skipped": None}
