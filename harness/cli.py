"""The command `arvbench`, made of the verbs in `commands.VERBS`; only `main` turns errors into exit codes.

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
from arvbench.harness.commands import GROUPS, VERBS

EXIT_INTERRUPTED = 130


def program() -> typer.Typer:
    """Build the command line from the table of verbs."""
    root = typer.Typer(
        name="arvbench",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    root.callback()(_root)
    groups = {"": root}
    for name, verb in VERBS.items():
        group, _, own_name = name.rpartition(" ")
        if group not in groups:
            groups[group] = typer.Typer(help=GROUPS[group], no_args_is_help=True, rich_markup_mode=None)
            root.add_typer(groups[group], name=group)
        groups[group].command(own_name)(_interruptible(verb))
    return root


def _interruptible(verb: Callable[..., None]) -> Callable[..., None]:
    """Make Ctrl-C end a verb with one line and exit code 130 in every version of Typer."""

    @functools.wraps(verb)
    def wrapped(**options: object) -> None:
        try:
            verb(**options)
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(EXIT_INTERRUPTED) from None

    return wrapped


def _show_version(requested: bool) -> None:
    if requested:
        typer.echo(f"arvbench {arvbench.__version__}")
        raise typer.Exit


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
        program()(args=list(arguments) if arguments is not None else None, prog_name="arvbench")
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
