"""`arvbench eval`: measure the quality of existing samples, whatever program drew them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from arvbench.errors import UnknownName, UserError
from arvbench.harness.commands import also as also_rows
from arvbench.harness.commands.engines import Accelerator, Address, EngineOptions, Retries
from arvbench.harness.commands.evaluation_parts import EvaluationPart, extract_part, part_of, shared_features
from arvbench.harness.commands.options import (
    Device,
    ExtractorWeights,
    InceptionWeights,
    WorkFolder,
    comma_list,
    extractor_files,
)

if TYPE_CHECKING:
    from arvbench.harness.quality.evaluation import Evaluation, EvaluationRequest
    from arvbench.harness.quality.features.feature_pass import FeaturePass
    from arvbench.harness.quality.images.source import ImageSource
    from arvbench.results.schema import Quality

EXIT_FINDINGS = 1


def evaluate(
    samples: Annotated[
        Path, typer.Argument(help="Samples: .npz (arr_0 uint8 NHWC), a folder of PNG, or .safetensors.")
    ],
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            metavar="REF",
            help="Official reference .npz, a file of `arvbench reference make`, images, or the name digits.",
        ),
    ] = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            "--protocol", metavar="NAMES", help="Such as adm-v1,torch-fidelity; repeatable.  [default: adm-v1]"
        ),
    ] = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option("--metrics", metavar="NAMES", help="Only these metrics, such as fid,is; repeatable."),
    ] = None,
    resize: Annotated[
        str | None, typer.Option(metavar="RULE", help="Resize the samples first, such as bicubic:256.")
    ] = None,
    also: Annotated[list[str] | None, typer.Option("--also", metavar="CAUSE=VALUES", help=also_rows.HELP)] = None,
    inception_weights: InceptionWeights = None,
    extractor_weights: ExtractorWeights = None,
    device: Device = "cpu",
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes that share the images; with ray, tasks.  [default: one per core on cpu, else 1; with ray "
            "as many as there is room for]",
        ),
    ] = None,
    work: WorkFolder = None,
    shard: Annotated[
        str | None,
        typer.Option("--shard", metavar="K/N", help="Only features, of part K of N of the images, below --work."),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine",
            metavar="NAME",
            help="local: this machine; torchrun: only the shard of this rank, below --work; ray: the nodes of a Ray "
            "cluster extract features, and this process makes the numbers.  [default: local]",
        ),
    ] = None,
    retries: Retries = None,
    address: Address = None,
    accelerator: Accelerator = None,
    bootstrap: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Intervals of FID by N resamples, not by jackknife; 0 for none."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Model that drew the samples: they are compared with its official recipe."),
    ] = None,
    labels: Annotated[
        Literal["balanced", "balanced-shuffled", "uniform", "data set"] | None,
        typer.Option(help="How the classes were chosen, where the samples do not say it.", show_default=False),
    ] = None,
    uint8_rule: Annotated[
        Literal["truncate", "round", "127.5x+128", "none"] | None,
        typer.Option(help="How floats became bytes, where the samples do not say it.", show_default=False),
    ] = None,
    class_folders: Annotated[
        bool,
        typer.Option("--class-folders", help="Subfolders of SAMPLES and REF are classes."),
    ] = False,
    reconstructions: Annotated[
        bool, typer.Option("--reconstructions", help="The samples are reconstructions of real images (rFID).")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 when there is a warning.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list of numbers, nothing else.")] = False,
) -> None:
    """Measure the quality of SAMPLES under named protocols, each number with its protocol id and interval.

    What is wrong with the samples or the reference (class-ordered files, duplicates, few images, a reference of another
    use) is printed below the numbers. One pass over the images serves all protocols. The FID of clean-fid takes that
    library a minute or more.

    Exit code: 0 ok, 1 a protocol has no numbers (or, with --strict, there is a warning), 2 bad input, 3 this machine
    lacks something, 130 interrupted.

    Examples:

      arvbench eval samples.npz --reference VIRTUAL_imagenet256_labeled.npz --inception-weights PATH

      arvbench eval pngs --reference ref.npz --protocol adm-v1,torch-fidelity,clean-fid --json

      arvbench eval demo.npz --reference digits --protocol digits-cnn

      arvbench eval samples.npz --reference ref.npz --also uint8=truncate,round --also images=10000

      arvbench eval samples.npz --reference ref.npz --shard 2/8 --work shards

      arvbench eval samples.npz --reference ref.npz --engine ray --address 10.0.0.1:6379 --device cuda
    """
    from arvbench.harness.quality.evaluation import EvaluationRequest
    from arvbench.harness.quality.features.feature_pass import FeaturePass
    from arvbench.harness.quality.protocols import Options

    protocols, options = comma_list(protocol) or ("adm-v1",), Options(bootstrap=bootstrap, seed=seed)
    request = EvaluationRequest(protocols=protocols, reference=reference, metrics=comma_list(metrics), options=options)
    files = extractor_files(inception_weights, extractor_weights)
    part = part_of(shard, EngineOptions(engine, workers, (), retries, address, accelerator), device, work)
    features = FeaturePass(device=part.device, workers=workers, extractor_files=files, work=part.work)
    stated = Statements(model, labels, uint8_rule, class_folders=class_folders, reconstructions=reconstructions)
    done = _evaluate(GivenSamples(samples, resize, stated, also or ()), request, (features, part))
    if done is not None:
        _print(done, samples, as_json=as_json)
        raise typer.Exit(_exit_code(done, strict=strict))


@dataclass(frozen=True, slots=True)
class Statements:
    """Facts about the samples that the command line adds to those in their file."""

    model: str | None
    """Model that drew the samples."""
    labels: str | None
    uint8_rule: str | None
    _: KW_ONLY
    class_folders: bool
    reconstructions: bool

    def recipe(self) -> dict[str, str] | None:
        """Return the official facts about samples of this model; None without a model."""
        from arvbench.adapters.registry import MODELS
        from arvbench.harness.suites.recipes import official_facts

        if self.model is None:
            return None
        if self.model not in MODELS:
            raise UnknownName("model", self.model, MODELS)
        if (facts := official_facts(self.model)) is None:
            raise UserError(f"--model {self.model}: there is no official recipe to compare with")
        return facts

    def add_to(self, source: ImageSource) -> None:
        """Complete the provenance of `source`. Raises UserError where it states something else."""
        from arvbench.harness.quality.images.source import UNKNOWN

        sampling = "reconstruction" if self.reconstructions else None
        for field, value in {"labels": self.labels, "uint8_rule": self.uint8_rule, "sampling": sampling}.items():
            own = getattr(source.provenance, field)
            if value is None or value == own:
                continue
            if own not in ("", UNKNOWN):
                raise UserError(f"{source.name} states {field} {own!r}, not {value!r}")
            source.provenance = replace(source.provenance, **{field: value})


@dataclass(frozen=True, slots=True)
class GivenSamples:
    """Samples of the command line, and the changes of `--also`."""

    path: Path
    resize: str | None
    stated: Statements
    also: Sequence[str]

    def open(self, path: Path, resize: str | None) -> ImageSource:
        """Open samples with what the command line says about them."""
        from arvbench.harness.quality.images.open import open_images

        source = open_images(path, resize=resize, class_folders=self.stated.class_folders)
        self.stated.add_to(source)
        return source


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Numbers of the samples as given, and of `--also`."""

    evaluation: Evaluation
    differences: also_rows.Differences


def _evaluate(
    samples: GivenSamples, request: EvaluationRequest, extracting: tuple[FeaturePass, EvaluationPart]
) -> Evaluated | None:
    """Check everything that needs no image, then measure under a progress bar; a shard has no numbers."""
    from rich.console import Console

    from arvbench.adapters.loading import usable_device
    from arvbench.harness.commands.progress import ProgressBar
    from arvbench.harness.machine.limits import set_threads
    from arvbench.harness.quality.evaluation import choose_metrics, evaluate
    from arvbench.harness.quality.reference.official import find_reference

    if request.reference is not None:
        request = replace(request, reference=find_reference(request.reference))
    request = replace(request, class_folders=samples.stated.class_folders)
    choose_metrics(request)
    recipe, (features, part) = samples.stated.recipe(), extracting
    if samples.also and (part.shard is not None or part.engine.name == "ray"):
        raise UserError("--also needs the images and all of their features here: leave --shard and --engine away")
    usable_device(features.device)
    set_threads(None)
    part = part.connected()
    with ProgressBar(Console(stderr=True)) as listener:
        source = samples.open(samples.path, samples.resize)
        if part.shard is not None:
            extract_part(source, request, part.shard, features, listener)
            return None
        given = also_rows.AsGiven(source, request, samples.open, samples.path, samples.resize, features.extractor_files)
        variants = also_rows.variants_of(samples.also, given)
        with shared_features(source, request, part, features, listener) as found:
            evaluation = evaluate(source, request, features=found, recipe=recipe, listener=listener)
        return Evaluated(evaluation, also_rows.measure(variants, evaluation, features, listener))


def _exit_code(done: Evaluated, *, strict: bool) -> int:
    """Return the exit code of the samples as given. Raises the error that ended `--also`."""
    if done.differences.error is not None:
        raise done.differences.error
    warnings = {finding.code for finding in done.evaluation.findings if finding.severity == "warning"}
    return EXIT_FINDINGS if "failed" in warnings or (strict and warnings) else 0


def _print(done: Evaluated, samples: Path, *, as_json: bool) -> None:
    """Print the table of numbers, notes and findings; as JSON the numbers alone, with the findings on stderr."""
    from rich.console import Console

    from arvbench.paths import printable

    evaluation = done.evaluation
    if as_json:
        typer.echo(_as_json(done))
    else:
        _print_table(evaluation.numbers, title=f"{printable(samples)}: {evaluation.numbers[0].n_samples:,} samples")
        _print_notes(evaluation.numbers)
    console = Console(stderr=as_json)
    for finding in evaluation.findings:
        console.print(
            f"{finding.severity}: {finding.text} [{finding.code}]",
            style="yellow" if finding.severity == "warning" else None,
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    if done.differences.rows and not as_json:
        also_rows.print_differences(evaluation, done.differences)


def _as_json(done: Evaluated) -> str:
    """Return the records of the numbers, each with its protocol by name and in words and the codes of all findings.

    Those of `--also` follow, each with its change and without findings.
    """

    def as_object(number: Quality) -> dict[str, object]:
        named = {"protocol": number.protocol_name, "description": number.protocol}
        return number.model_dump(mode="json", exclude={"protocol_name"}) | named

    codes = list(dict.fromkeys(finding.code for finding in done.evaluation.findings))
    objects = [as_object(number) | {"findings": codes} for number in done.evaluation.numbers]
    changed = [
        as_object(number) | {"also": row.variant.name} for row in done.differences.rows for number in row.numbers
    ]
    return json.dumps([*objects, *changed], indent=2)


def _print_table(numbers: Sequence[Quality], title: str) -> None:
    """Print one row per number, narrow enough for 80 columns; `--json` has every word of the protocols."""
    from rich.console import Console
    from rich.table import Column, Table

    from arvbench.reports.tables.quality import interval_text, metric_label, value_text

    table = Table(
        Column("Protocol"),
        Column("Metric", no_wrap=True),
        Column("Value", justify="right", no_wrap=True),
        Column("95 % interval", justify="right", no_wrap=True),
        Column("Id", no_wrap=True),
        title=title,
        title_justify="left",
    )
    previous = ""
    for number in numbers:
        name = number.protocol_name or ""
        table.add_row(
            "" if name == previous else name,
            metric_label(number.metric),
            value_text(number),
            interval_text(number),
            number.protocol_id,
        )
        previous = name
    Console().print(table)


def _print_notes(numbers: Sequence[Quality]) -> None:
    """Print each distinct note once, with the metrics it applies to."""
    metrics_by_note: dict[str, list[str]] = {}
    for number in numbers:
        for note in filter(None, number.note.split("; ")):
            metrics_by_note.setdefault(note, []).append(f"{number.metric} of {number.protocol_name}")
    for note, metrics in metrics_by_note.items():
        typer.echo(f"note: {note} ({'all numbers' if len(metrics) == len(numbers) else ', '.join(metrics)})")
