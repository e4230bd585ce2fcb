"""`arvbench verify`: replay recordings of the official code and compare every output."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from arvbench.harness.commands.options import Device
from arvbench.kernels.backends import BackendName, Kernels

if TYPE_CHECKING:
    from arvbench.harness.verify.fixture import Check, FixtureError

EXIT_MISMATCH = 1
VERDICTS = {
    True: ("pass", "passed", "green"),
    False: ("FAIL", "failed", "bold red"),
    None: ("skipped", "skipped", "yellow"),
}
"""`Check.passed` -> word in the table, word in the count, style."""


def verify(
    fixtures: Annotated[list[Path], typer.Argument(metavar="FIXTURE.json...", help="Fixtures, full or recipe.")],
    backend: Annotated[BackendName, typer.Option(help="Which implementation to put to the test.")] = "reference",
    device: Device = "cpu",
    kernels: Annotated[
        Kernels,
        typer.Option(
            help="Kernels as the backend says, on a CPU in Triton's interpreter, or as torch.compile makes them."
        ),
    ] = "backend",
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of the table.")] = False,
) -> None:
    """Rebuild the model of each FIXTURE, replay every recorded run and compare each recorded output.

    Token ids must be equal; floats agree within the stated tolerance. Seeded runs are skipped, and said to be, where
    torch draws another random stream than where they were recorded. Exit code: 0 nothing failed, 1 a mismatch, 2 an
    unusable fixture (the others are still shown).

    Examples:

      arvbench verify tests/golden/recipe/var_tiny_a.json

      arvbench verify fixtures/*.json --backend optimized --json

      arvbench verify fixtures/*.json --backend optimized --kernels interpreter
    """
    checks, unusable = _replay(fixtures, backend=backend, device=device, kernels=kernels)
    if as_json and (checks or not unusable):
        typer.echo(json.dumps([asdict(check) for check in checks], indent=2, allow_nan=False))
    elif checks:
        _print_table(checks)
    for reason in unusable[:-1]:
        typer.echo(f"error: {reason}", err=True)
    if unusable:
        raise unusable[-1]
    if any(check.passed is False for check in checks):
        raise typer.Exit(EXIT_MISMATCH)


def _replay(
    fixtures: Sequence[Path], *, backend: str, device: str, kernels: Kernels
) -> tuple[list[Check], list[FixtureError]]:
    """Return the checks of all fixtures that can be replayed, and the errors of the others."""
    from arvbench.harness.verify import verify
    from arvbench.harness.verify.fixture import FixtureError
    from arvbench.kernels.dispatch import interpret_kernels

    if kernels == "interpreter":
        interpret_kernels(backend, device, large_blocks=True)
    checks: list[Check] = []
    unusable: list[FixtureError] = []
    for path in fixtures:
        try:
            checks += verify(path, backend=backend, device=device, kernels=kernels)
        except FixtureError as error:
            unusable.append(error)
    return checks, unusable


def _print_table(checks: Sequence[Check]) -> None:
    """Print one row per check, and the number of checks by verdict."""
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    table = Table(
        "fixture",
        "check",
        Column("max |difference|", justify="right"),
        Column("tolerance", justify="right"),
        "result",
        title="Against the official code",
    )
    for check in checks:
        word, _, style = VERDICTS[check.passed]
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
    counts = {plural: sum(check.passed is passed for check in checks) for passed, (_, plural, _) in VERDICTS.items()}
    console = Console()
    console.print(table)
    console.print(", ".join(f"{count} {plural}" for plural, count in counts.items() if count), highlight=False)
