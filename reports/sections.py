"""Sections of a report, in the order of HTML and Markdown.

To add a table, write a function of the records in `reports/tables/` and name it in a section below. To add a figure,
write a file in `reports/figures/` and add `Figure("name", module.draw)`. To add a section, add an entry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from arvbench.reports.blocks import Block, Code, FoldedTables, Passage, Terms, Text
from arvbench.reports.cases import case_names, measured
from arvbench.reports.figures import (
    capacity,
    drift,
    energy,
    equal_memory,
    kv_cache,
    memory,
    memory_definitions,
    published,
    quality_throughput,
    quality_tokens,
    roofline,
    scaling,
    step_latency,
)
from arvbench.reports.names import short_names
from arvbench.reports.numbers import plain
from arvbench.reports.reproduction import SUITE_FILE, reproduction_commands, reproduction_suite
from arvbench.reports.svg import Draw
from arvbench.reports.table import MISSING, Table
from arvbench.reports.tables.capacity import capacity_table, tried_table
from arvbench.reports.tables.definitions import allocators_table, counts_table, definitions_table, transients_table
from arvbench.reports.tables.drift import drift_table
from arvbench.reports.tables.energy import energy_blocks
from arvbench.reports.tables.equal_memory import equal_memory_table
from arvbench.reports.tables.machine import machine_table, start_table
from arvbench.reports.tables.measures import cache_table, memory_table, scopes_table, step_tables, steps_left_out
from arvbench.reports.tables.provenance import (
    correctness_table,
    deviations_table,
    environment_tables,
    recipes_table,
    settings_table,
    weights_table,
)
from arvbench.reports.tables.published import published_blocks
from arvbench.reports.tables.quality import findings_table, protocols_table, quality_table
from arvbench.reports.tables.results import failures_table, results_table
from arvbench.reports.tables.roofline import ceilings_table, floor_table, no_floors_table
from arvbench.reports.tables.search import search_blocks
from arvbench.reports.tables.work import work_table
from arvbench.results.launches import several_launches
from arvbench.results.schema import Failed, Record


@dataclass(frozen=True, slots=True)
class Figure:
    """Part that draws a figure."""

    name: str
    """Letters, digits and hyphens; the figure's id on the page is "figure-<name>"."""
    draw: Draw


@dataclass(frozen=True, slots=True)
class SampleSheets:
    """Part that shows the pictures of samples that lie beside the records."""


@dataclass(frozen=True, slots=True)
class AnswerFindings:
    """Part that says what was compared and found."""


@dataclass(frozen=True, slots=True)
class AnswerTables:
    """Part with one row for each model."""


@dataclass(frozen=True, slots=True)
class SampleStrip:
    """Part that shows the first images of the compared models beside each other."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Part that shows the verdicts that lie beside the records."""


@dataclass(frozen=True, slots=True)
class Claims:
    """Part that shows the outcomes of claims that lie beside the records."""


@dataclass(frozen=True, slots=True)
class Histories:
    """Part that shows numbers over many commits, where the report was asked for them."""


BlocksOf = Callable[[Sequence[Record]], Block | Sequence[Block]]
"""Function from records to blocks; empty tables are left out."""
WrittenPart = (
    Text | Terms | AnswerFindings | AnswerTables | SampleStrip | SampleSheets | Verdicts | Claims | Histories | BlocksOf
)
Part = WrittenPart | Figure


@dataclass(frozen=True, slots=True)
class Section:
    """Heading and its parts; left out when the parts yield only texts."""

    heading: str
    parts: tuple[Part, ...]


def _results_text(records: Sequence[Record]) -> Text:
    more = " [Quality](#quality) has all metrics." if any(outcome.quality for _, outcome in measured(records)) else ""
    kind = "the 95 % interval of the median within one process beneath."
    if several_launches(records):
        kind = "the interval of the median beneath: over launches, or within one process, as the row says."
    return Text(
        f"Medians, with {kind} Compare speeds only between rows "
        "with the same hardware, data type and batch, within one column; compare quality only within one column. "
        f"Select a column heading to sort by it.{more}"
    )


def _failure_details(records: Sequence[Record]) -> list[Passage]:
    """Return tracebacks and the ends of workers' output."""
    names = short_names(records)
    return [
        Passage(heading=f"{names[record.record_id]} ({record.status.value})", text=_lines(record.outcome.detail))
        for record in records
        if isinstance(record.outcome, Failed) and record.outcome.detail.strip()
    ]


def _folded_steps(records: Sequence[Record]) -> list[Block]:
    tables, left_out = tuple(step_tables(records)), steps_left_out(records)
    return [FoldedTables(tables), *([Text(left_out)] if left_out else [])] if tables else []


def _deviations(records: Sequence[Record]) -> Table | Text:
    return deviations_table(records) or Text("Every case ran with the official settings of its model.")


def _recipes(records: Sequence[Record]) -> list[Block]:
    text = Text(
        "A recipe is how the authors drew the samples behind their published numbers: settings, data type, number of "
        "images, labels, resize and reference."
    )
    table = recipes_table(records)
    return [text, table] if table else []


_MOST_CONFIGURATIONS = 100
"""The suite has those of all."""


def _reproduction(records: Sequence[Record]) -> list[Block]:
    names, shown = case_names(records), records[:_MOST_CONFIGURATIONS]
    which = "every case" if len(shown) == len(records) else f"the first {len(shown)} of {len(records):,} cases"
    return [
        Text(f"Save this suite, which asks for every case above, as `{SUITE_FILE}`:", short=f"Save as `{SUITE_FILE}`:"),
        Code(reproduction_suite(records)),
        Text("Then run:", short="Then run:"),
        Code("\n".join(reproduction_commands(records))),
        Text(f"The complete configuration of {which}:"),
        *(
            Passage(heading=names[record.record_id], text=_lines(record.case.model_dump_json(indent=2)))
            for record in shown
        ),
    ]


def _lines(text: str) -> str:
    """Strip control and direction characters from every line."""
    return "\n".join(plain(line) for line in text.splitlines())


_MEDIAN = (
    "Median of the raw samples, warm-up not included. The interval lies between two of the samples in order and covers "
    "the median of such calls with a probability of 95 % or more. Fewer than 6 samples have no interval, and their "
    "number stands in its place. "
)
_ONE_LAUNCH = "All samples of a case are calls within one process: two starts of the program may differ by more."
_LAUNCHES = (
    "A launch is a process that measured a case; the launches of a case share a row. With several, samples are the "
    "medians of the launches, and the interval holds the differences between processes. The interval of a single "
    "launch is one of its calls, within one process. A row says which it is, and its level, the probability with which "
    "it covers the median; where there is no interval, that of the range of all samples. Memory is that of the launch "
    "that held most; quality and pictures are made by the first launch."
)
_CV = (
    "Coefficient of variation, standard deviation over mean. Within a launch: of its calls, as root mean square over "
    "the launches. Between launches: of their medians."
)


def _terms(records: Sequence[Record]) -> Terms:
    """Return the terms, with those of launches when there are several."""
    if several_launches(records):
        return Terms((("Median and interval", _MEDIAN + _LAUNCHES), ("CV", _CV), *_TERMS))
    return Terms((("Median and interval", _MEDIAN + _ONE_LAUNCH), *_TERMS))


_TERMS = (
    (
        "Quality in brackets",
        "95 % interval of the draw of the samples alone: it holds neither the bias of few samples nor the choice "
        "of reference.",
    ),
    ("Throughput", "Images of one call divided by its median time, scope images."),
    (
        "MiB, GFLOP",
        "2^20^ bytes; 10^9^ operations, multiply and add counted apart, matrix products only.",
    ),
    (
        "Cache",
        "Planned: from the schedule. Live: what is kept between steps. Allocated: storage held for it.",
    ),
    (MISSING, "Not measured, or not known on this machine. Columns without any number are left out."),
)

ANSWER = Section(
    "Answer", (AnswerFindings(), Figure("quality-throughput", quality_throughput.draw), SampleStrip(), AnswerTables())
)
"""Head of the page, which is not folded."""

SECTIONS: tuple[Section, ...] = (
    ANSWER,
    Section("Changes", (Verdicts(),)),
    Section("History", (Histories(),)),
    Section("Results", (_results_text, results_table)),
    Section("Searches", (search_blocks,)),
    Section(
        "Cases without a speed",
        (
            Text("A case whose output differs from its judge is *incorrect* and is not timed."),
            failures_table,
            _failure_details,
        ),
    ),
    Section(
        "Quality",
        (
            Text(
                "A protocol id is a hash of everything that could change the number: extractor weights, preprocessing, "
                "reference data, sample count, labels. Numbers with different ids are not comparable and never share "
                "a column. In brackets: 95 % interval, where the metric has one. ± is the standard deviation over "
                "splits or subsets."
            ),
            quality_table,
            Figure("quality-tokens", quality_tokens.draw),
            findings_table,
            protocols_table,
        ),
    ),
    Section("Samples", (Text("Not selected: the first images of each class, one row per class."), SampleSheets())),
    Section(
        "Latency",
        (
            Text(
                "*images*: labels in, uint8 images out. *tokens*: the autoregressive loop. *decode*: tokens to image. "
                "Guidance doubles the forward rows of an image."
            ),
            scopes_table,
            Figure("step-latency", step_latency.draw),
            Figure("scaling-batch", scaling.draw_batch),
            Figure("scaling-size", scaling.draw_size),
            _folded_steps,
        ),
    ),
    Section(
        "Roofline",
        (
            Text(
                "The floor of a step is the longer of its FLOPs over the measured rate of matrix products and its "
                "bytes over the measured rate of a copy, plus the start of every kernel where a tiny one was timed. It "
                "counts matrix products, and weights, cache and logits once. A floor above the time means that a "
                "ceiling was measured too low, on a machine that had other work. Floors of single steps stand with "
                "their times under [Latency](#latency).",
                short="Floors of single steps stand with their times.",
            ),
            Figure("roofline", roofline.draw),
            floor_table,
            ceilings_table,
            no_floors_table,
        ),
    ),
    Section(
        "Cache",
        (
            Figure("kv-cache", kv_cache.draw),
            cache_table,
            Figure("drift", drift.draw),
            drift_table,
            Figure("equal-memory", equal_memory.draw),
            equal_memory_table,
            work_table,
        ),
    ),
    Section(
        "Memory",
        (
            Figure("memory", memory.draw),
            memory_table,
            Figure("memory-definitions", memory_definitions.draw),
            definitions_table,
            transients_table,
            allocators_table,
            counts_table,
        ),
    ),
    Section("Capacity", (Figure("capacity", capacity.draw), capacity_table, tried_table)),
    Section("Energy", (Figure("energy", energy.draw), energy_blocks)),
    Section(
        "Correctness",
        (
            Text(
                "Each case is compared with its judge on the same weights and noise: largest difference of the guided "
                "logits on the judge\N{RIGHT SINGLE QUOTATION MARK}s token path, and share of tokens that both would "
                "draw there from the same noise. Where steps yield latents, these are compared in place of logits, and "
                "no tokens are counted."
            ),
            correctness_table,
        ),
    ),
    Section("Published", (Figure("published", published.draw), published_blocks)),
    Section("Claims", (Claims(),)),
    Section("Settings", (_deviations, _recipes, settings_table, weights_table)),
    Section("Environment", (environment_tables, machine_table, start_table)),
    Section("How to reproduce", (_reproduction,)),
    Section("How to read the numbers", (_terms,)),
)
