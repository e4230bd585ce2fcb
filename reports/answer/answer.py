"""The answer at the head of a report: one sentence, findings, cautions, and a summary table for each place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from arvbench.reports.answer.fields import Field, Place, compared_places, fields_of, lead_field, place_words
from arvbench.reports.answer.statements import Statement, statements_of
from arvbench.reports.answer.summary import summary_table
from arvbench.reports.cases import arithmetic, hardware, has_random_weights, measured, model_of, setup_of
from arvbench.reports.numbers import plain
from arvbench.reports.table import Table
from arvbench.results.launches import launches_of
from arvbench.results.schema import Record
from arvbench.results.statistics import find_timing, nanoseconds

MOST_PLACES = 3
"""Places with a summary table; the results have all."""
MOST_STATEMENTS = 8
"""Findings that are shown; report.json has all."""
_MOST_NAMES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Answer, as data: what was compared, and what was found."""

    sentence: str
    statements: tuple[Statement, ...]
    """All of them, the most important first."""
    cautions: tuple[str, ...]
    """Limits of the findings."""
    tables: tuple[Table, ...]
    places: Mapping[Place, Sequence[Field]]

    @property
    def shown(self) -> tuple[Statement, ...]:
        """Return the findings for which a first screen has room; failures are always among them."""
        failures = [each for each in self.statements if each.kind == "failures"]
        others = [each for each in self.statements if each.kind != "failures"]
        return (*others[: MOST_STATEMENTS - len(failures)], *failures)


def answer_of(records: Sequence[Record]) -> Answer:
    """Compute the answer of a report from its records, launches merged."""
    places = fields_of(records)
    compared = compared_places(places)
    shown = list(compared.items())[:MOST_PLACES]
    return Answer(
        sentence=_sentence(records),
        statements=tuple(statements_of(places, records)),
        cautions=tuple(_cautions(records, len(compared))),
        tables=tuple(summary_table(fields, place_words(place, compared)) for place, fields in shown),
        places=places,
    )


def _sentence(records: Sequence[Record]) -> str:
    """Say what was compared where, in one sentence."""
    models = [model_of(record) for record in records]
    batches = sorted({record.case.batch for record in records})
    between = "batches " if len(batches) > 1 else "batch "
    shown = f"{batches[0]} to {batches[-1]}" if len(batches) > _MOST_NAMES else " and ".join(map(str, batches))
    # A case that failed before its setup does not say with how many threads.
    known = [record for record in records if setup_of(record) is not None] or records
    machines = " and ".join(dict.fromkeys(hardware(record) for record in known))
    where = f"on {machines}, in {_listed(map(arithmetic, records))}"
    quality = [outcome.quality for _, outcome in measured(records) if outcome.quality]
    counts = {number.n_samples for numbers in quality for number in numbers}
    each = " each" if len(quality) > 1 else ""
    images = f" with {max(counts):,} images{each}" if len(counts) == 1 else ""
    random = all(map(has_random_weights, known))
    none = "; the weights are random, so there is no quality" if random else "; no quality was measured"
    judged = f", and the quality of {len(quality)}{images}" if quality else none
    timed = sum(find_timing(outcome, "images") is not None for _, outcome in measured(records))
    number = len(set(models))
    what = f"{number} models ({_listed(models)})" if number > 1 else plain(models[0])
    return f"{what} {where}, at {between}{shown}: speed and memory of {timed} of {len(records)} cases{judged}."


def _listed(names: Iterable[str]) -> str:
    distinct = list(dict.fromkeys(names))
    more = len(distinct) - _MOST_NAMES
    return ", ".join(distinct[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _cautions(records: Sequence[Record], places: int) -> Iterable[str]:
    """Say how far the findings carry: what the intervals hold, and what is not compared."""
    times = [(record, find_timing(outcome, "images")) for record, outcome in measured(records)]
    timed = [record for record, timing in times if timing is not None]
    single = sum(len(launches_of(record)) == 1 for record in timed)
    if timed and all(nanoseconds(timing).low is None for _, timing in times if timing is not None):
        yield "No speed has an interval, which takes 6 calls or launches: no difference between speeds can be shown."
    elif single:
        whose = "All intervals" if single == len(timed) else f"Intervals of {single} of {len(timed)} cases"
        yield f"{whose} of speed are of calls within one process: two starts of a program may differ by more."
    if places > 1:
        yield (
            f"Models are compared only under equal hardware, data type, backend, size of image and source: {places} "
            f"such places{f', {MOST_PLACES} of them summarised' if places > MOST_PLACES else ''}."
        )


def lead_of(answer: Answer) -> Field | None:
    """Return the field that the findings begin with; None where no case has a speed."""
    return next((lead_field(fields) for fields in answer.places.values()), None)
