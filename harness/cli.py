"""The command `arvbench`, made of the verbs in `commands.VERBS`; only `main` turns errors into exit codes.

`arvbench.errors.ExitCode` has the exit codes of all verbs; `arvbench --help` prints them.
"""

from __future__ import annotations

import errno
import functools
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer
from typer.core import TyperCommand

import arvbench
from arvbench.errors import ArvbenchError, ContractError, ExitCode, HostError, UserError
from arvbench.harness.commands import GROUPS, VERBS
from arvbench.interrupts import EXIT_INTERRUPTED, interrupted
from arvbench.paths import printable, user_path

_SHORT_HELP = {"help_option_names": ["-h", "--help"]}
_REFUSALS = dict.fromkeys(
    (
        errno.EACCES,
        errno.EPERM,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ENAMETOOLONG,
        errno.ELOOP,
        errno.EEXIST,
    ),
    UserError.exit_code,
) | dict.fromkeys(
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOLCK),
    HostError.exit_code,
)
"""Exit codes of errors of the system that no reader or writer explained: the path is at fault, or the machine."""


def program(verbs: Mapping[str, Callable[..., None]] = VERBS) -> typer.Typer:
    """Build the command line from a table of verbs."""
    root = typer.Typer(
        name="arvbench",
        epilog="Exit codes: " + "; ".join(f"{code.value} {code.meaning}" for code in ExitCode) + ".",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings=_SHORT_HELP,
    )
    root.callback()(_root)
    groups = {"": root}
    for name, verb in verbs.items():
        group, _, own_name = name.rpartition(" ")
        if group not in groups:
            groups[group] = typer.Typer(
                help=GROUPS[group], no_args_is_help=True, rich_markup_mode=None, context_settings=_SHORT_HELP
            )
            root.add_typer(groups[group], name=group, short_help=_summary(GROUPS[group]))
        groups[group].command(
            own_name,
            cls=_command(verb),
            short_help=_summary(verb.__doc__ or ""),
            context_settings=_SHORT_HELP,  # a command keeps the first words for help that it hears of
        )(_run(verb))
    return root


def command_line(first: str | None = None) -> Callable[..., Any]:
    """Return the program, ready to be called.

    Where `first`, the first argument, is a verb or a group of verbs, it has these alone: all of them take a fifth of a
    second.
    """
    wanted = [name for name in VERBS if name.partition(" ")[0] == first]
    return _ready(tuple((name, VERBS[name]) for name in wanted or VERBS))


@functools.cache
def _ready(verbs: tuple[tuple[str, Callable[..., None]], ...]) -> Callable[..., Any]:
    command: Callable[..., Any] = typer.main.get_command(program(dict(verbs)))
    return command


def _command(verb: Callable[..., None]) -> type[TyperCommand]:
    """Return the kind of command that a verb is: one that refuses empty paths.

    `--out "$UNSET"` would otherwise write into the working folder, which is what a `Path` makes of nothing.
    """
    paths = {name for name, hint in get_type_hints(verb).items() if _is_path(hint)}

    class Command(TyperCommand):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            given, _, _ = self.make_parser(ctx).parse_args(args=list(args))
            for parameter in self.params:
                texts = given.get(parameter.name)
                if parameter.name in paths and "" in (texts if isinstance(texts, list | tuple) else [texts]):
                    raise UserError(f"{max(parameter.opts, key=len)}: an empty path; write . for the working folder")
            return super().parse_args(ctx, args)

    return Command


def _is_path(hint: object) -> bool:
    return hint is Path or any(map(_is_path, get_args(hint)))


def _summary(text: str) -> str:
    """Return the whole first paragraph; Click would cut it at the width of the terminal."""
    return " ".join(text.split("\n\n")[0].split())


def _run(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb usable paths, and make Ctrl-C end it with one line and exit code 130 in every version of Typer."""

    @functools.wraps(verb)
    def wrapped(**options: object) -> None:
        try:
            verb(**{name: _usable(value) for name, value in options.items()})
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(EXIT_INTERRUPTED) from None

    return wrapped


def _usable(option: object) -> object:
    """Expand and check the paths among options."""
    if isinstance(option, Path):
        return user_path(option)
    if isinstance(option, list | tuple):
        return type(option)(_usable(element) for element in option)
    return option


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
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        command_line(next(iter(given), None))(args=given, prog_name="arvbench")
    except SystemExit as done:
        if isinstance(getattr(done.__context__, "__cause__", None), KeyboardInterrupt):
            typer.echo("interrupted", err=True)  # Typer says nothing when Ctrl-C comes while it reads the options
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except Exception as error:
        if interrupted():
            typer.echo("interrupted", err=True)
            return EXIT_INTERRUPTED
        return _explain(error)
    return 0


def _explain(error: Exception) -> int:
    """Print an error, and return its exit code: one line for what was raised on purpose or by the system."""
    if isinstance(error, ArvbenchError) and error.exit_code != ExitCode.BUG:
        typer.echo(f"error: {printable(str(error))}", err=True)
        return error.exit_code
    if isinstance(error, OSError) and error.errno in _REFUSALS:
        name = f" {printable(error.filename)}" if isinstance(error.filename, str | bytes) else ""
        typer.echo(f"error: the system refuses{name}: {error.strerror}", err=True)
        return _REFUSALS[error.errno]
    # A bug, ours or an adapter's: never the exit code of a finished run.
    traceback.print_exception(error)
    return ContractError.exit_code


if __name__ == "__main__":
    sys.exit(main())
