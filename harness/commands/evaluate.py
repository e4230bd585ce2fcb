"""`arvbench eval`: quality of samples that are already there, anyone's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from arvbench.errors import UnknownName, UserError
from arvbench.harness.commands.options import (
    Device,
    ExtractorWeights,
    InceptionWeights,
    WorkFolder,
    comma_list,
    extractor_files,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from arvbench.harness.quality.evaluation import Evaluation
    from arvbench.harness.quality.images.source import ImageSource, Provenance
    from arvbench.results.schema import Finding, Quality

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
    inception_weights: InceptionWeights = None,
    extractor_weights: ExtractorWeights = None,
    device: Device = "cpu",
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that share the images.  [default: one per core on cpu, else 1]"),
    ] = None,
    work: WorkFolder = None,
    bootstrap: Annotated[int, typer.Option(min=0, help="Replicates behind an interval; 0 for none.")] = 100,
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
    """
    from rich.console import Console

    from arvbench.harness.quality.images.source import UNKNOWN, Provenance

    evaluation = _evaluate(
        samples,
        reference=reference,
        protocols=comma_list(protocol) or ("adm-v1",),
        metrics=comma_list(metrics),
        resize=resize,
        extractor_files=extractor_files(inception_weights, extractor_weights),
        device=device,
        workers=workers,
        work=work,
        bootstrap=bootstrap,
        seed=seed,
        model=model,
        stated=Provenance(
            labels=labels or UNKNOWN,
            uint8_rule=uint8_rule or UNKNOWN,
            sampling="reconstruction" if reconstructions else "",
        ),
        console=Console(stderr=True),
    )
    if as_json:
        typer.echo(json.dumps([_as_object(number, evaluation.findings) for number in evaluation.numbers], indent=2))
        _show_findings(evaluation.findings, Console(stderr=True))
    else:
        console = Console()
        console.print(_table(evaluation.numbers, samples))
        _show_notes(evaluation.numbers, console)
        _show_findings(evaluation.findings, console)
    codes = {finding.code for finding in evaluation.findings if finding.severity == "warning"}
    if "failed" in codes or (strict and codes):
        raise typer.Exit(EXIT_FINDINGS)


def _evaluate(
    samples: Path,
    *,
    reference: str | None,
    protocols: tuple[str, ...],
    metrics: tuple[str, ...],
    resize: str | None,
    extractor_files: dict[str, Path],
    device: str,
    workers: int | None,
    work: Path | None,
    bootstrap: int,
    seed: int,
    model: str | None,
    stated: Provenance,
    console: Console,
) -> Evaluation:
    from arvbench.adapters.loading import usable_device
    from arvbench.adapters.registry import MODELS
    from arvbench.harness.commands.progress import ProgressBar
    from arvbench.harness.machine.limits import set_threads
    from arvbench.harness.quality.evaluation import EvaluationRequest, choose_metrics, evaluate
    from arvbench.harness.quality.features.feature_pass import FeaturePass
    from arvbench.harness.quality.images.open import open_images
    from arvbench.harness.quality.protocols import Options
    from arvbench.harness.quality.reference.official import find_reference
    from arvbench.harness.suites.recipes import official_facts

    asked = EvaluationRequest(
        protocols=protocols,
        reference=None if reference is None else find_reference(reference),
        metrics=metrics,
        options=Options(bootstrap=bootstrap, seed=seed),
    )
    choose_metrics(asked)
    if model is not None and model not in MODELS:
        raise UnknownName("model", model, MODELS)
    recipe = official_facts(model) if model else None
    if model is not None and recipe is None:
        raise UserError(f"--model {model}: there is no official recipe to compare with")
    where = usable_device(device)
    set_threads(None)

    with ProgressBar(console) as listener:
        return evaluate(
            as_stated(open_images(samples, resize=resize), stated),
            asked,
            features=FeaturePass(device=where, workers=workers, extractor_files=extractor_files, work=work),
            recipe=recipe,
            listener=listener,
        )


def as_stated(source: ImageSource, stated: Provenance) -> ImageSource:
    """The source with what the user says about it. Raises UserError where the samples themselves say otherwise."""
    from arvbench.harness.quality.images.source import UNKNOWN

    known = source.provenance
    for name in ("labels", "uint8_rule", "sampling"):
        said, own = getattr(stated, name), getattr(known, name)
        if said in ("", UNKNOWN) or said == own:
            continue
        if own not in ("", UNKNOWN):
            raise UserError(f"{source.name} says of itself that its {name} is {own!r}, not {said!r}")
        known = replace(known, **{name: said})
    source.provenance = known
    return source


def _as_object(number: Quality, findings: Sequence[Finding]) -> dict[str, Any]:
    """The record of a number, its protocol by name and in words, and the codes of all findings."""
    codes = list(dict.fromkeys(finding.code for finding in findings))
    fields = number.model_dump(mode="json", exclude={"protocol_name"})
    return fields | {"protocol": number.protocol_name, "description": number.protocol, "findings": codes}


def _table(numbers: Sequence[Quality], samples: Path) -> Table:
    """One row per number, narrow enough for 80 columns; `--json` has every word of the protocols."""
    from rich.table import Table

    from arvbench.reports.tables.quality import interval_text, metric_label, value_text

    table = Table(title=f"{samples}: {numbers[0].n_samples:,} samples", title_justify="left")
    for heading in ("Protocol", "Metric", "Value", "95 % interval", "Id"):
        right = heading in ("Value", "95 % interval")
        table.add_column(heading, justify="right" if right else "left", no_wrap=heading != "Protocol")
    before = ""
    for number in numbers:
        name = number.protocol_name or ""
        table.add_row(
            "" if name == before else name,
            metric_label(number.metric),
            value_text(number),
            interval_text(number),
            number.protocol_id,
        )
        before = name
    return table


def _show_notes(numbers: Sequence[Quality], console: Console) -> None:
    """What was noted on single numbers, each once with the numbers that it is about."""
    about: dict[str, list[str]] = {}
    for number in numbers:
        for note in filter(None, number.note.split("; ")):
            about.setdefault(note, []).append(f"{number.metric} of {number.protocol_name}")
    for note, names in about.items():
        which = "all numbers" if len(names) == len(numbers) else ", ".join(names)
        console.print(f"note: {note} ({which})", markup=False, highlight=False, soft_wrap=True)


def _show_findings(findings: Sequence[Finding], console: Console) -> None:
    for finding in findings:
        console.print(
            f"{finding.severity}: {finding.text} [{finding.code}]",
            style="yellow" if finding.severity == "warning" else None,
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
