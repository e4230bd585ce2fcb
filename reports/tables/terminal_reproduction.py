"""A reproduction for a terminal: smoke image, numbers beside published ones, suspects, and files that are missing."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from arvbench.reports.numbers import plain, significant
from arvbench.reports.table import Cell, Column, Tone, make_table
from arvbench.reports.tables.rich_table import titled_table
from arvbench.results.metrics import label_of
from arvbench.results.reproduction import Judged, Need, Outcome, Reproduction, SmokeCheck, Suspect, Target

if TYPE_CHECKING:
    from rich.console import RenderableType

_TONES: dict[Outcome, Tone] = {
    Outcome.REPRODUCED: "good",
    Outcome.NOT_REPRODUCED: "bad",
    Outcome.INCONCLUSIVE: "warn",
}
_STYLES = {"good": "green", "bad": "bold red", "warn": "yellow"}
_MOST_ALSO = 6


def terminal_reproduction(made: Reproduction, *, width: int = 80) -> RenderableType:
    """Draw an attempt for a terminal of `width` columns; nothing but sentences and commands wraps."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [
        Text(f"{made.model}, {made.images:,} images, recipe: {made.recipe}", style="bold"),
        Text(),
        *_smoke(made.smoke),
    ]
    if made.numbers:
        parts += [Text(), *titled_table("Numbers", make_table("", _COLUMNS, made.numbers), width, naming=1)]
        parts.append(Text(f"published: {made.numbers[0].target.source} ({made.numbers[0].target.seen})", style="dim"))
    if made.also_published:
        parts += [Text(), Text("Also published for this model, and not judged", style="bold"),
                  *_also(made.also_published)]  # fmt: skip
    parts += [Text(), Text(f"{made.outcome.value}: {made.reason}", style=_STYLES[_TONES[made.outcome]])]
    return Group(*parts)


def needs_lines(model: str, needs: Sequence[Need], rehearsal: str) -> list[str]:
    """Say what is missing and how to rehearse without it; addresses stay whole on their lines."""
    lines = [f"{model}: {len(needs)} file{'s are' if len(needs) != 1 else ' is'} not here"]
    for need in needs:
        lines += [
            "",
            f"{need.what}: {need.file}",
            f"  from     {plain(need.source)}",
            f"  size     {need.size or 'not known here'}",
            f"  sha256   {need.sha256 or 'not published'}",
            *([f"  licence  {plain(need.licence)}"] if need.licence else []),
            f"  then     {plain(need.put)}",
        ]
    return [*lines, "", f"Rehearse the same path with what is here: {rehearsal}"]


def suspect_lines(suspects: Sequence[Suspect], width: int = 80) -> list[str]:
    """Say what to suspect, each with its command, which stays whole on its line."""
    lines = ["", "What to suspect, and what tells"] if suspects else []
    for suspect in suspects:
        text = f"{suspect.cause} ({suspect.state}): {plain(suspect.text)}"
        lines += [*textwrap.wrap(text, width, subsequent_indent="  "), f"  $ {plain(suspect.command)}"]
    return lines


def _facts(facts: Sequence[tuple[str, str]]) -> list[RenderableType]:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, text in facts:
        grid.add_row(Text(f"  {name}", style="dim"), Text(plain(text)))
    return [grid]


def _smoke(checks: Sequence[SmokeCheck]) -> list[RenderableType]:
    from rich.table import Table
    from rich.text import Text

    words = {True: ("ok", "green"), False: ("wrong", "bold red"), None: ("-", "dim")}
    grid = Table.grid(padding=(0, 2))
    for _ in range(2):
        grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for check in checks:
        word, style = words[check.passed]
        grid.add_row(Text(word, style=style), Text(check.name), Text(plain(check.text)))
    return [Text("Smoke image", style="bold"), grid]


def _number(value: float) -> str:
    return significant(value, 4)


_COLUMNS: list[Column[Judged]] = [
    Column("Number", cell=lambda row: Cell(text=label_of(row.target.metric).text)),
    Column("Verdict", cell=lambda row: Cell(text=row.outcome.value, tone=_TONES[row.outcome])),
    Column("Published", cell=lambda row: Cell(text=f"{row.target.value:.4g}"), numeric=True),
    Column("Measured", cell=lambda row: Cell(text=_number(row.value)), numeric=True),
    Column("95 %", cell=lambda row: Cell(text=_interval(row)), numeric=True),
    Column("Off by", cell=lambda row: Cell(text=_off(row)), numeric=True),
]


def _interval(row: Judged) -> str:
    return f"[{', '.join(map(significant, row.interval))}]" if row.interval else "-"


def _off(row: Judged) -> str:
    """Return the difference and, where it decides, the one that is allowed."""
    return f"{row.difference:+.3g}" + ("" if row.allowed is None else f" of {row.allowed:.2g}")


def _also(targets: Sequence[Target]) -> list[RenderableType]:
    facts = [(f"{target.value:.4g}", f"{target.source} ({target.seen})") for target in targets[:_MOST_ALSO]]
    more = len(targets) - _MOST_ALSO
    return _facts([*facts, *([("...", f"{more} more in reproduction.json")] if more > 0 else [])])
