"""Claims of publications with what came out of them here."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import get_args

from arvbench.reports.numbers import plain, significant, text_cell
from arvbench.reports.table import MISSING, Cell, Column, Table, Tone, make_table
from arvbench.results.claims import Outcome, Undecided, Verdict
from arvbench.results.published.tables import ClaimRow, claim_rows

_TONES: dict[Verdict, Tone] = {"reproduced": "good", "not reproduced": "bad", "direction only": "warn"}


def claims_table(outcomes: Sequence[Outcome], *, in_words: bool = False) -> Table:
    """Narrow table: id, verdict, claimed and found number, and cause; it fits into 80 columns without the words."""
    words: Column[Outcome] = Column("What was claimed", cell=lambda row: text_cell(row.experiment.says), prose=True)
    columns: list[Column[Outcome]] = [
        Column("Claim", cell=lambda row: text_cell(row.experiment.id)),
        Column("Verdict", cell=_verdict_cell),
        Column("Claimed", cell=lambda row: text_cell(claimed_text(row)), numeric=True),
        Column("Found", cell=lambda row: text_cell(found_text(row)), numeric=True),
        Column("Likely cause", cell=lambda row: text_cell(row.cause or "")),
        *([words] if in_words else []),
    ]
    return make_table("Claims", columns, outcomes)


def claims_details(outcomes: Sequence[Outcome]) -> Table:
    """Table of words: what the claimed number counts, what we ran and where, and why that decides the claim."""
    rows = claim_rows()
    columns: list[Column[Outcome]] = [
        Column("Claim", cell=lambda row: text_cell(row.experiment.id), code=True),
        Column("System", cell=lambda row: text_cell(published(row, "system"))),
        Column("What we ran", cell=lambda row: text_cell(ran_text(row)), prose=True),
        Column("Why", cell=lambda row: text_cell(plain(row.note) or row.experiment.because), prose=True),
        Column("What counts", cell=lambda row: text_cell(counts_text(rows.get(row.experiment.claim))), prose=True),
        Column("Source", cell=_source_cell, prose=True),
        Column("Where", cell=lambda row: text_cell(where_text(row)), prose=True, once=True),
    ]
    return make_table(
        "Behind the verdicts: what was run, what the claimed number counts, and the source", columns, outcomes
    )


def published(outcome: Outcome, column: str) -> str:
    """Return a cell of the published claim; "" where the claim is not known to this version."""
    row = claim_rows().get(outcome.experiment.claim)
    return "" if row is None else str(getattr(row, column))


def claimed_text(outcome: Outcome) -> str:
    """Return the claimed number with its unit."""
    experiment = outcome.experiment
    return _with_unit(experiment.claimed, experiment.unit) if experiment.claimed else MISSING


def found_text(outcome: Outcome) -> str:
    """Return the outcome with its unit, with one digit more than the claim has."""
    value = outcome.value
    if value is None or not math.isfinite(value):
        return "failed" if outcome.note else MISSING
    digits = sum(map(str.isdigit, outcome.experiment.claimed.partition("..")[0])) + 1
    text = f"{value:.0f}" if value.is_integer() else significant(value, max(2, min(digits, 4)))
    return _with_unit(text, outcome.experiment.unit)


def _with_unit(text: str, unit: str) -> str:
    return text + (unit if unit in ("x", "%", "M", "B") else f" {unit}" if unit in ("GB", "px") else "")


def ran_text(outcome: Outcome) -> str:
    """Say which quantity of which cases was taken."""
    experiment = outcome.experiment
    if experiment.quantity is None or experiment.of is None:
        return "nothing"
    quantity = experiment.quantity.replace("_", " ")
    cases = " over ".join(map(str, experiment.terms))
    form = {"saved": "saved ", "share": "share of ", "exponent": "growth of "}.get(experiment.form, "")
    along = f" along {experiment.along}" if experiment.along else ""
    return f"{form}{quantity}{along}: {cases}"


def counts_text(row: ClaimRow | None) -> str:
    """Say what the claimed number counts, leaving out what is not stated."""
    if row is None:
        return ""
    parts = {
        "decode": row.counts_decode,
        "batch": row.batch_rule,
        "counts": row.what_is_counted,
        "warm-up": row.warmup_rule,
        "sync": row.sync_rule,
    }
    stated = [f"{name}: {text}" for name, text in parts.items() if text != "not stated"]
    silent = [name for name, text in parts.items() if text == "not stated"]
    if not stated:
        return "not stated"
    return "; ".join([*stated, *([f"not stated: {', '.join(silent)}"] if silent else [])])


def where_text(outcome: Outcome) -> str:
    """Say where and when an outcome was made."""
    made = outcome.provenance
    if made is None:
        return ""
    commit = f" at {plain(made.commit)[:9]}" if made.commit else ""
    changed = " with local changes" if made.dirty else ""
    version = f"arvbench {plain(made.arvbench)}{commit}{changed}"
    return f"{plain(made.machine)}, {made.cores} cores, {made.made:%Y-%m-%d}, {version}"


def verdict_counts(outcomes: Sequence[Outcome]) -> tuple[str, str]:
    """Count the verdicts in words: those that an outcome decides, and those that name what is missing."""
    counts = Counter(outcome.verdict for outcome in outcomes)
    missing = get_args(Undecided)
    told = {verdict: f"{counts[verdict]} {verdict}" for verdict in get_args(Verdict) if counts[verdict]}
    decided = ", ".join(text for verdict, text in told.items() if verdict not in missing)
    return decided, ", ".join(text for verdict, text in told.items() if verdict in missing)


def _verdict_cell(outcome: Outcome) -> Cell:
    return Cell(text=outcome.verdict, sort=outcome.verdict, tone=_TONES.get(outcome.verdict, "plain"))


def _source_cell(outcome: Outcome) -> Cell:
    seen = published(outcome, "seen")
    return Cell(text=published(outcome, "source"), flags=("second-hand",) if seen == "second-hand" else ())
