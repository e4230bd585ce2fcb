"""`arvbench compare`: what changed between two runs, and the most likely cause."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from arvbench.harness.commands.verdicts import AllowInconclusive, VerdictJson, conclude
from arvbench.paths import printable


def compare(
    base: Annotated[Path, typer.Argument(metavar="RUN_A", help="Run folder or records.jsonl file to compare with.")],
    head: Annotated[Path, typer.Argument(metavar="RUN_B", help="Run folder or records.jsonl file that may differ.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Also write verdict.json, JUnit XML and Markdown there.")
    ] = None,
    allow_inconclusive: AllowInconclusive = False,
    as_json: VerdictJson = False,
) -> None:
    """Compare two runs: the ratio of every number of both, its interval, the smallest change that would be found, the
    verdict, and the cause: code, machine, method, noise or unknown.

    Cases are paired by what they measured, on one machine. Runs of too few launches (`launches: N` in a suite) show
    ratios and are inconclusive. Exit codes: those of a check.

    Examples:

      arvbench compare results/runs/before results/runs/after

      arvbench compare before/records.jsonl after/records.jsonl --json > verdict.json
    """
    from arvbench.harness.check.compare import compare_runs
    from arvbench.harness.check.outputs.write import write_outputs

    command = shlex.join(["arvbench", "compare", printable(base), printable(head)])
    comparison = compare_runs(base, head, command=command)
    warnings = [] if out is None else write_outputs(comparison.check, out)
    for notice in [*comparison.notices, *warnings]:
        typer.echo(f"warning: {printable(notice)}", err=True)
    conclude(comparison.check, as_json=as_json, allow_inconclusive=allow_inconclusive)
