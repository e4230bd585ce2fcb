"""`arvbench doctor`: print on one screen what this machine can run, or every check."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from arvbench.harness.commands.choices import exactness_rows

if TYPE_CHECKING:
    from arvbench.harness.diagnosis import Check


def doctor(
    weights: Annotated[
        Path | None,
        typer.Option(metavar="DIR", envvar="ARVBENCH_WEIGHTS", help="Folder to look for official weight files in."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Print every check, with files and reasons.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print every check as a JSON list.")] = False,
) -> None:
    """Show on one screen what this machine can run, what is missing for what, and what to try next.

    Attention backends and plug-ins are tried, not read off a list. Nothing is downloaded.

    Examples:

      arvbench doctor

      arvbench doctor --all --weights ~/ckpts
    """
    from arvbench.harness.diagnosis import diagnose

    checks = diagnose(weights)
    if as_json:
        typer.echo(json.dumps([check.model_dump() for check in checks], indent=2))
    elif everything:
        _print_table(checks)
    else:
        _print_screen(checks)


def _print_screen(checks: Sequence[Check]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for heading, rows in _screen(checks).items():
        console.print(Text(heading, style="bold"))
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True, min_width=16)
        table.add_column()
        for name, text in rows:
            table.add_row(Text(f"  {name}"), Text(text))
        console.print(table)


def _screen(checks: Sequence[Check]) -> dict[str, list[tuple[str, str]]]:
    """Return rows (name, text) by heading; a row that has nothing to say is left out."""
    weights = _of(checks, "weights")
    demo = [check for check in weights if check.name.startswith("demo/")]
    networks = [check for check in weights if check.name.endswith(" extractor") and "lpips" not in check.name]
    lpips = [check for check in weights if "lpips" in check.name]
    official = [check for check in weights if check not in (*demo, *networks, *lpips)]
    plug_ins, facts = _of(checks, "plug-ins"), {check.name: check.detail for check in checks}
    gpus = [check for check in _of(checks, "hardware") if check.name.startswith("cuda") and check.ok]
    attention = [check.name.rpartition(" (")[0] for check in _of(checks, "attention") if check.ok]
    machine = [
        ("arvbench", f"{facts['arvbench']}, Python {facts['python']}, torch {facts['torch']}"),
        ("CPU", f"{facts['cpu']}, {facts['memory']} memory"),
        *((check.name, check.detail) for check in gpus),
    ]
    random = len(official) + len(_names(plug_ins, True))
    works = [
        ("models", f"{len(_names(demo, True))} demo models, and with random weights {random} more"),
        ("official weights", ", ".join(_names(official, True))),
        ("plug-ins", ", ".join(_names(plug_ins, True))),
        ("quality", ", ".join(["digits-cnn", *_names(networks, True)])),
        ("attention", ", ".join(attention)),
        ("kernels", facts["triton"] if gpus else ""),
        *exactness_rows(),
    ]
    absent, without = _names(networks, False), len(_names(official, False))
    missing = [
        ("GPU", "" if gpus else facts["cuda"]),
        ("kernels", "" if gpus else f"triton {facts['triton']}"),
        ("official weights", f"of {without} models: name their folder with --weights" if without else ""),
        ("quality", f"published protocols need the networks {', '.join(absent)}" if absent else ""),
        ("plug-ins", "; ".join(check.detail for check in plug_ins if not check.ok)),
        ("libraries", ", ".join(_names(_of(checks, "software"), False))),
        *((check.name, check.detail) for check in _of(checks, "extras") if not check.ok),
    ]
    following = [
        ("arvbench run demo", "measure the demo models; a report in minutes"),
        ("arvbench doctor --all", "every check, with missing files and their sources"),
    ]
    parts = {"This machine": machine, "Works": works, "Missing": missing, "Next": following}
    return {heading: [(name, text) for name, text in rows if text] for heading, rows in parts.items()}


def _of(checks: Sequence[Check], topic: str) -> list[Check]:
    return [check for check in checks if check.topic == topic]


def _names(checks: Sequence[Check], ok: bool) -> list[str]:
    return [check.name.removesuffix(" extractor") for check in checks if check.ok is ok]


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
