"""Table of the demo models in README: `python tests/support/demo_table.py results/runs/demo` prints it from a run.

The numbers in README are those of tests/golden/identities/records.jsonl, a run of the demo suite; after a change of the
models, `make run` and `python tests/support/identities.py` renew these records, and this program the table.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from arvbench.results.records import read_records
from arvbench.results.schema import Measured, Record

HEAD = (
    "| model | steps | 1,000 digits classified as their label | FID(digits-cnn) of the 1,000 | of the tokenizer's "
    "reconstructions |\n|---|---|---|---|---|\n"
)


def demo_table(records: Iterable[Record]) -> str:
    """Return the table in Markdown: one line for each demo case with quality, numbers with 95 % intervals."""
    lines = []
    for record in records:
        outcome = record.outcome
        if record.suite == "demo" and isinstance(outcome, Measured) and outcome.quality:
            numbers = {number.metric: number for number in outcome.quality}
            accuracy, fid, reconstruction = (numbers[n] for n in ("label-accuracy", "fid", "reconstruction-fid"))
            cells = [
                outcome.setup.model,
                str(len(outcome.setup.plan)),
                f"{100 * accuracy.value:.1f} %",
                *(
                    f"{number.value:.3f} [{number.interval[0]:.3f}, {number.interval[1]:.3f}]"
                    if number.interval
                    else f"{number.value:.3f}"
                    for number in (fid, reconstruction)
                ),
            ]
            lines.append(f"| {' | '.join(cells)} |\n")
    return HEAD + "".join(lines)


if __name__ == "__main__":
    sys.stdout.write(demo_table(read_records(Path(sys.argv[1]))))
