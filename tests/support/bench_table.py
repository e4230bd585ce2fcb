"""Table of `make bench`: `python tests/support/bench_table.py RUN.json` prints each benchmark with its ratio to a peer.

A benchmark notes its peer, measured in the same run, in `extra_info`: names that begin with `times_as_fast_as` and
`peer_over_ours` or `ratio` are above 1 where ours is faster. `bar` says in words what is demanded.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RATIOS = ("times_as_fast_as", "peer_over_ours", "ratio")


def rows(run: dict[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """Return (group, benchmark, median in ms, ratios, bar) of every benchmark, sorted by group."""
    found = []
    for benchmark in run["benchmarks"]:
        ratios = [
            f"{float(value):.2f} {key.replace('_', ' ')}"
            for key, value in benchmark["extra_info"].items()
            if key.startswith(RATIOS)
        ]
        median_ms = f"{1e3 * benchmark['stats']['median']:,.3g}"
        name, bar = benchmark["name"].removeprefix("test_"), benchmark["extra_info"].get("bar", "")
        found.append((benchmark["group"] or "", name, median_ms, "\n".join(ratios), bar))
    return sorted(found)


def main() -> None:
    run = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    table = Table(title=f"Benchmarks on {run['machine_info']['cpu']['brand_raw']}", show_lines=True)
    for heading in ("group", "benchmark", "median, ms", "ratio", "bar"):
        table.add_column(heading, overflow="fold")
    for row in rows(run):
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    main()
