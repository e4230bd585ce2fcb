"""The command `arvbench`: one verb per file in `commands/`; only `main` turns errors into exit codes.

Exit codes: 0 ok, 1 the run finished with failures, 2 user error, 3 host error, 70 a bug (with traceback),
130 interrupted.
"""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

import arvbench
from arvbench.errors import ContractError, HostError, UserError
from arvbench.harness.commands.convert import convert
from arvbench.harness.commands.doctor import doctor
from arvbench.harness.commands.evaluate import evaluate
from arvbench.harness.commands.models import models
from arvbench.harness.commands.reference import GROUP_HELP, make
from arvbench.harness.commands.report import report
from arvbench.harness.commands.run import run
from arvbench.harness.commands.sample import sample
from arvbench.harness.commands.train import train
from arvbench.harness.commands.verify import verify

EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="arvbench",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _interruptible(verb: Callable[..., None]) -> Callable[..., None]:
    """Ctrl-C ends a verb with one line and exit code 130 in every version of Typer."""

    @functools.wraps(verb)
    def wrapped(**options: object) -> None:
        try:
            verb(**options)
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(EXIT_INTERRUPTED) from None

    return wrapped


for verb in (run, sample, models, verify, train, convert, report, doctor):
    app.command()(_interruptible(verb))
app.command("eval")(_interruptible(evaluate))

references = typer.Typer(help=GROUP_HELP, no_args_is_help=True, rich_markup_mode=None)
references.command("make")(_interruptible(make))
app.add_typer(references, name="reference")


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"arvbench {arvbench.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Benchmarks of autoregressive image models: quality, speed, memory and cache, in defended numbers.

    First steps:

      arvbench run demo

      arvbench doctor

      arvbench run speed256 --device cuda --models var-d16
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        app(args=list(arguments) if arguments is not None else None, prog_name="arvbench")
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except (UserError, HostError) as error:
        typer.echo(f"error: {error}", err=True)
        return error.exit_code
    except Exception:  # a bug, ours or an adapter's: never the exit code of a finished run
        traceback.print_exc()
        return ContractError.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
