"""Rows: the results of a session on a GPU machine, and the files that hold them.

gpu.json   all rows and the machine, written anew after every row
gpu.md     the rows as tables, by part
records/   records of timed cases, as `arvbench run` writes them

Units    _s seconds
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from arvbench.files import write_whole
from arvbench.results.schema import Environment

Status = Literal["ok", "failed", "unsupported", "timeout", "skipped"]


class Row(BaseModel):
    """One result of a part. What fails or cannot run here is a row too."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    part: str
    name: str
    status: Status
    values: dict[str, float] = {}
    """Numbers by name, which states the unit."""
    note: str = ""


class Session(BaseModel):
    """All rows of a session, and where they come from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    started: datetime
    dry: bool
    """True for a rehearsal in miniature on a CPU, whose numbers say nothing about a GPU."""
    environment: Environment
    seconds: dict[str, float] = {}
    """Time of every part that has ended."""
    rows: tuple[Row, ...] = ()

    def write(self, folder: Path) -> None:
        """Write gpu.json and gpu.md."""
        write_whole(folder / "gpu.json", self.model_dump_json(indent=1))
        write_whole(folder / "gpu.md", markdown(self))


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a JSON-lines file; a line that a killed process left unfinished ends them."""
    if not path.exists():
        return
    for line in path.read_bytes().split(b"\n"):
        try:
            yield Row.model_validate_json(line)
        except ValidationError:
            return


def markdown(session: Session) -> str:
    """Return the session as Markdown: the counts by status, then a table per part."""
    where = session.environment.gpu.name if session.environment.gpu else session.environment.cpu
    lines = [f"# Session on {where}", ""]
    if session.dry:
        lines += ["Rehearsal in miniature: no number here is one of a GPU.", ""]
    for part in dict.fromkeys(row.part for row in session.rows):
        rows = [row for row in session.rows if row.part == part]
        counts = {status: sum(row.status == status for row in rows) for status in dict.fromkeys(r.status for r in rows)}
        took = f", {session.seconds[part]:.0f} s" if part in session.seconds else ""
        lines += [f"## {part}: {', '.join(f'{count} {status}' for status, count in counts.items())}{took}", ""]
        lines += [*_table(rows), ""]
    return "\n".join(lines)


def _table(rows: Sequence[Row]) -> list[str]:
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    head = ["Name", "Status", *names, "Note"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        numbers = [f"{row.values[name]:.4g}" if name in row.values else "" for name in names]
        cells = [row.name, row.status, *numbers, row.note]
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return lines
