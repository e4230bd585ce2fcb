"""Outcomes of claims as a page of the documentation, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence

from arvbench.reports.cases import group_by
from arvbench.reports.claims import HOW_TO_READ
from arvbench.reports.markdown import escape, table_lines
from arvbench.reports.tables.claims import (
    claimed_text,
    claims_table,
    counts_text,
    found_text,
    published,
    ran_text,
    verdict_counts,
    where_text,
)
from arvbench.results.claims import Outcome
from arvbench.results.published.tables import claim_rows


def outcomes_json(outcomes: Sequence[Outcome]) -> str:
    """Return the outcomes with their verdicts as a JSON list."""
    rows = [
        outcome.model_dump(mode="json")
        | {
            "verdict": outcome.verdict,
            "cause": outcome.cause,
            "source": published(outcome, "source"),
            "seen": published(outcome, "seen"),
        }
        for outcome in outcomes
    ]
    return json.dumps(rows, indent=2)


def claims_page(outcomes: Sequence[Outcome]) -> str:
    """Return the page of the documentation: the verdicts in a table, then every experiment by system."""
    parts = [
        "# Claims",
        "Made by `arvbench claims --markdown`; `arvbench claims --run` makes the outcomes anew.",
        HOW_TO_READ,
        f"{len(outcomes)} experiments: {', '.join(filter(None, verdict_counts(outcomes)))}.",
        table_lines(claims_table(outcomes)),
    ]
    for system, own in group_by(outcomes, lambda outcome: published(outcome, "system")).items():
        parts += [f"## {escape(system)}", *map(_entry, own)]
    return "\n\n".join(parts) + "\n"


def _entry(outcome: Outcome) -> str:
    experiment = outcome.experiment
    seen = " (second-hand)" if published(outcome, "seen") == "second-hand" else ""
    lines = [
        ("Claimed", claimed_text(outcome)),
        ("Found", found_text(outcome)),
        ("Verdict", outcome.verdict + (f"; likely cause: {outcome.cause}" if outcome.cause else "")),
        ("Ran", ran_text(outcome)),
        ("Why", outcome.note or experiment.because),
        ("What counts", counts_text(claim_rows().get(experiment.claim))),
        ("Source", published(outcome, "source") + seen),
        ("Where", where_text(outcome)),
    ]
    told = [f"- {label}: {escape(text)}" for label, text in lines if text]
    return "\n".join([f"**{escape(experiment.id)}** {escape(experiment.says)}", "", *told])
