"""`arvbench eval --also`: the same samples evaluated again with one thing changed, as "why your number differs".

Every row has protocol ids of its own: it shows what a cause is worth, and compares no model with another.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from arvbench.errors import ArvbenchError, HostError, UnknownName, UserError
from arvbench.harness.commands.options import comma_list

if TYPE_CHECKING:
    from arvbench.harness.jobs import EventListener
    from arvbench.harness.quality.evaluation import Evaluation, EvaluationRequest
    from arvbench.harness.quality.features.feature_pass import FeaturePass
    from arvbench.harness.quality.images.source import ImageSource
    from arvbench.results.schema import Quality

HELP = (
    "Evaluate again with one thing changed, and show the difference: uint8=truncate, jpeg=75, images=5000, "
    "resize=pil-bicubic:256, reference=REF, protocol=NAME; or with other samples: guidance=FILE, settings=FILE, "
    "seed=FILE, labels=FILE, dtype=FILE, weights=FILE; values parted by commas; repeatable."
)
OTHER_SAMPLES = ("guidance", "settings", "seed", "labels", "dtype", "weights")
"""Causes that images cannot show once they are drawn: their value is another file of samples."""
_METRICS_OF_A_TABLE = 2
"""Columns that 80 characters have room for."""
_OUTSIDE = " *"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """The samples, or what they are compared with, with one thing changed."""

    cause: str
    value: str
    source: ImageSource
    request: EvaluationRequest
    note: str = ""
    """Remark on how the change was made."""

    @property
    def name(self) -> str:
        return f"{self.cause}={self.value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Numbers of a variant."""

    variant: Variant
    numbers: tuple[Quality, ...]
    warnings: tuple[str, ...]
    """Warnings that the samples as given do not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Differences:
    """All rows, up to the first that failed."""

    rows: tuple[Difference, ...]
    error: ArvbenchError | None


@dataclass(frozen=True, slots=True)
class AsGiven:
    """The samples and the request that the variants change."""

    source: ImageSource
    request: EvaluationRequest
    open: Callable[[Path, str | None], ImageSource]
    """Function that opens samples with a resize."""
    path: Path
    resize: str | None
    extractor_files: Mapping[str, Path] = field(default_factory=dict)
    """Weights of extractors that the command line names."""


def variants_of(texts: Sequence[str] | None, given: AsGiven) -> list[Variant]:
    """Return the variants of `--also`, checked before any image is read. Raises UserError, UnknownName, HostError."""
    from arvbench.harness.quality.evaluation import choose_metrics

    makers = _makers()
    variants = []
    for text in texts or ():
        cause, equals, values = text.partition("=")
        if not equals:
            raise UserError(
                f"--also {text!r}: write CAUSE=VALUE, such as --also images=1000; causes: {', '.join(makers)}"
            )
        if cause not in makers:
            raise UnknownName("cause of --also", cause, makers)
        try:
            for value in comma_list([values]):
                variant = makers[cause](cause, value, given)
                choose_metrics(variant.request)
                variants.append(variant)
        except (UserError, HostError) as error:
            raise _named(error, text) from error
    return variants


def _named(error: UserError | HostError, text: str) -> ArvbenchError:
    kind = HostError if isinstance(error, HostError) else UserError
    return kind(f"--also {text}: {error}")


Maker = Callable[[str, str, AsGiven], Variant]


def _makers() -> dict[str, Maker]:
    """Return cause -> function of cause, value and what is given; in the order of the documentation."""
    from arvbench.harness.quality.images.changed import CHANGES

    makers: dict[str, Maker] = dict.fromkeys(CHANGES, _with_other_pixels)
    makers |= {"resize": _with_resize, "reference": _with_reference, "protocol": _with_protocol}
    return makers | dict.fromkeys(OTHER_SAMPLES, _with_other_samples)


_PIXEL_NOTES = {
    "images": "drawn from the samples with seed 0",
    "jpeg": "written as JPEG, which halves the resolution of colours, and read again",
    "uint8": "simulated, for the floats are gone: of bytes between 0 and 255 a coin moves half by one",
}


def _with_other_pixels(cause: str, value: str, given: AsGiven) -> Variant:
    from arvbench.harness.quality.images.changed import changed, image_change

    source = changed(given.source, image_change(cause, value, given.source))
    return Variant(cause=cause, value=value, source=source, request=given.request, note=_PIXEL_NOTES[cause])


def _with_resize(cause: str, value: str, given: AsGiven) -> Variant:
    source = given.open(given.path, value)
    return Variant(cause=cause, value=value, source=source, request=given.request, note="in place of --resize")


def _with_reference(cause: str, value: str, given: AsGiven) -> Variant:
    from arvbench.harness.quality.reference import reference_files
    from arvbench.harness.quality.reference.official import find_reference

    found = find_reference(value)
    reference_files(found)
    return Variant(cause=cause, value=value, source=given.source, request=replace(given.request, reference=found))


def _with_protocol(cause: str, value: str, given: AsGiven) -> Variant:
    """Change the protocol; of its metrics, those that the given protocols have. Its weights must be there."""
    from arvbench.harness.quality.evaluation import choose_metrics
    from arvbench.harness.quality.extractors.extractor import weights_of
    from arvbench.harness.quality.extractors.weights import find_weights
    from arvbench.harness.quality.protocols.protocol import PROTOCOLS

    asked = {metric.name for _, metrics in choose_metrics(given.request) for metric in metrics}
    both = tuple(metric.name for metric in PROTOCOLS[value].metrics if metric.name in asked)
    if not both:
        raise UserError(f"protocol {value} has none of the metrics {', '.join(sorted(asked))}")
    if (weights := weights_of(PROTOCOLS[value].extractor)) is not None:
        find_weights(weights, given.extractor_files)
    request = replace(given.request, protocols=(value,), metrics=both)
    return Variant(cause=cause, value=value, source=given.source, request=request)


def _with_other_samples(cause: str, value: str, given: AsGiven) -> Variant:
    source = given.open(Path(value), given.resize)
    unlike = [name for name in _unlike(given.source, source) if not name.startswith(cause)]
    note = f"other samples; the files differ in {', '.join(unlike)}" if unlike else "other samples"
    return Variant(cause=cause, value=value, source=source, request=given.request, note=note)


def _unlike(first: ImageSource, second: ImageSource) -> Iterator[str]:
    """Yield what else two sets of samples differ in, as far as their files say."""
    if first.count != second.count:
        yield f"number of images ({first.count:,}, {second.count:,})"
    if first.shape != second.shape:
        yield "size of images"
    for name in ("labels", "uint8_rule", "resize", "sampling", "model", "seeds"):
        one, other = (getattr(source.provenance, name) for source in (first, second))
        if one != other:
            yield f"{name.replace('_', ' ')} ({_rest(one, other)} against {_rest(other, one)})"


def _rest(text: str, other: str) -> str:
    """Return the parts of a text that another lacks; a model is stated with all of its settings."""
    parts, others = (re.split(r"[,;{} ]+", each) for each in (text, other))
    return " ".join(part for part in parts if part and part not in others).replace('"', "") or "nothing"


def measure(
    variants: Sequence[Variant], base: Evaluation, features: FeaturePass, listener: EventListener
) -> Differences:
    """Evaluate every variant, without intervals; the first error ends it, with the rows before it kept."""
    from arvbench.harness.quality.evaluation import evaluate
    from arvbench.harness.quality.protocols import Options

    # The work folder of the samples as given belongs to them alone.
    features = replace(features, work=features.work and features.work / "also", folder_per_task=True)
    no_intervals = Options(bootstrap=0)  # a jackknife of 50,000 features takes longer than all else
    known = {finding.code for finding in base.findings}
    rows = list[Difference]()
    for variant in variants:
        try:
            request = replace(variant.request, options=no_intervals)
            found = evaluate(variant.source, request, features=features, listener=listener)
        except (UserError, HostError) as error:
            return Differences(rows=tuple(rows), error=_named(error, variant.name))
        new = [each.text for each in found.findings if each.severity == "warning" and each.code not in known]
        rows.append(Difference(variant=variant, numbers=found.numbers, warnings=tuple(new)))
    return Differences(rows=tuple(rows), error=None)


def print_differences(base: Evaluation, differences: Differences) -> None:
    """Print tables of all rows, in 80 columns, then notes and warnings."""
    names = list({(number.protocol_name, number.metric): None for number in base.numbers})
    for start in range(0, len(names), _METRICS_OF_A_TABLE):
        _print_table(base, differences.rows, names[start : start + _METRICS_OF_A_TABLE])
    typer.echo(
        "In brackets: the difference from the samples as given; * outside their 95 % interval. Rows have protocol ids "
        "of their own: they show what a cause is worth, and compare no models."
    )
    for row in differences.rows:
        if row.variant.note:
            typer.echo(f"note: {row.variant.name}: {row.variant.note}")
    for row in differences.rows:
        for warning in row.warnings:
            typer.secho(f"warning: {row.variant.name}: {warning}", fg="yellow")


def _print_table(base: Evaluation, rows: Sequence[Difference], names: Sequence[tuple[str | None, str]]) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    from arvbench.paths import printable
    from arvbench.reports.tables.quality import metric_label, value_text

    protocols = {protocol for protocol, _ in names}
    labels = [metric_label(metric) + (f"\n{protocol}" if len(protocols) > 1 else "") for protocol, metric in names]
    table = Table(
        Column("Cause"),
        Column("Instead", overflow="fold"),
        *(Column(label, justify="right", no_wrap=True) for label in labels),
        title="Why your number differs",
        title_justify="left",
    )
    given = {(number.protocol_name, number.metric): number for number in base.numbers}
    table.add_row("as given", "", *(value_text(given[name]) for name in names), end_section=True)
    for row in rows:
        table.add_row(row.variant.cause, printable(row.variant.value), *(_cell(given[name], row) for name in names))
    Console().print(table)


def _cell(given: Quality, row: Difference) -> str:
    """Return a row's number and its difference from the given one; "" where it has none of that metric."""
    from arvbench.reports.numbers import significant
    from arvbench.reports.tables.quality import value_text

    same_metric = [number for number in row.numbers if number.metric == given.metric]
    own = [number for number in same_metric if number.protocol_name == given.protocol_name]
    if row.variant.cause == "protocol":
        own = same_metric
    if not own:
        return ""
    change = own[0].value - given.value
    signed = f"{'+' if change > 0 else ''}{significant(change, 2)}"
    outside = given.interval is not None and not given.interval[0] <= own[0].value <= given.interval[1]
    return f"{value_text(own[0])} ({signed}){_OUTSIDE if outside else ''}"
