"""`arvbench reproduce`: make a published number again by the official recipe, and judge it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from arvbench.errors import ExitCode, UserError
from arvbench.harness.commands.options import Device, ExtractorWeights, InceptionWeights, extractor_files
from arvbench.interrupts import EXIT_INTERRUPTED

if TYPE_CHECKING:
    from arvbench.harness.reproduce.cases import Attempt
    from arvbench.harness.reproduce.targets import Targets
    from arvbench.results.reproduction import Need, Reproduction

REPRODUCE_FOLDER = Path("results") / "runs"
REHEARSAL = "arvbench reproduce demo/var"


def reproduce(
    model: Annotated[str, typer.Argument(help="Model with an official recipe, such as var-d16, or a demo model.")],
    weights: Annotated[
        str | None,
        typer.Option("--weights", metavar="DIR", help="Folder of official files, or hub.  [default: none; demo's own]"),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option("--reference", metavar="FILE", help="Official reference .npz.  [default: that of the recipe]"),
    ] = None,
    inception_weights: InceptionWeights = None,
    extractor_weights: ExtractorWeights = None,
    images: Annotated[
        int | None,
        typer.Option("--images", min=2, help="Fewer images, for a trial: a verdict needs the published number."),
    ] = None,
    device: Device = "cpu",
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, help="Images drawn at once.  [default: 32; of a demo model 50]")
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes that share the images.")] = 1,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder of records and verdict.  [default: below results/runs]"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and what is missing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdict, or what is missing, as JSON.")] = False,
) -> None:
    """Make a published number of MODEL again: smoke image, images by the official recipe, adm-v1, verdict.

    Without the official files it says which to fetch (exit code 3); a demo model rehearses the same path against the
    recorded run. An interrupted attempt goes on with the same command.

    Exit code: 0 reproduced, 1 not reproduced, 2 bad input, 3 a file or a device is missing, 5 no verdict: too few
    images, or an interval that is too wide.

    Examples:

      arvbench reproduce demo/var

      arvbench reproduce var-d16 --weights ~/ckpts --reference VIRTUAL_imagenet256_labeled.npz --device cuda

      arvbench reproduce var-d16 --dry-run
    """
    given = Given(model, weights, reference, images, device, batch, workers)
    attempt, targets, needs = _planned(given, out, extractor_files(inception_weights, extractor_weights))
    if dry_run:
        _print_plan(attempt, targets, needs, as_json=as_json)
    if needs:
        _print_needs(model, needs, quiet=dry_run, as_json=as_json)
        raise typer.Exit(ExitCode.HOST)
    if not dry_run:
        made = _made(attempt, targets)
        _print(made, as_json=as_json)
        raise typer.Exit(made.exit_code)


class Given(NamedTuple):
    """Options as they were given."""

    model: str
    weights: str | None
    reference: str | None
    images: int | None
    device: str
    batch: int | None
    workers: int


def _planned(given: Given, out: Path | None, files: dict[str, Path]) -> tuple[Attempt, Targets, tuple[Need, ...]]:
    """Check the options and find the files. Raises UserError for what cannot be reproduced."""
    from arvbench.adapters.loading import usable_device
    from arvbench.adapters.registry import MODELS
    from arvbench.harness.reproduce.cases import BATCH, DEMO_BATCH, Attempt
    from arvbench.harness.reproduce.needs import needs_of
    from arvbench.harness.reproduce.targets import targets_of

    recipe, targets = targets_of(given.model)
    demo = recipe is None
    if (given.weights or "").startswith("random"):
        raise UserError(f"random weights have no quality to reproduce; rehearse with {REHEARSAL}")
    if demo and (given.weights not in (None, "demo") or given.reference is not None):
        raise UserError(f"{given.model} is compared with its recorded run: it takes neither --weights nor --reference")
    reference = given.reference or (recipe.reference if recipe else "digits")
    usable_device(given.device)
    needs = needs_of(MODELS[given.model], given.weights, reference, files)
    published = targets.judged[0].images
    attempt = Attempt(
        model=given.model,
        weights=given.weights or "demo",
        device=given.device,
        reference=reference,
        images=given.images or published,
        published_images=published,
        batch=given.batch or (DEMO_BATCH if demo else BATCH),
        workers=given.workers,
        folder=out or REPRODUCE_FOLDER / f"reproduce-{given.model.replace('/', '-')}",
        recipe=recipe,
        extractor_files=files,
    )
    return attempt, targets, needs


def _made(attempt: Attempt, targets: Targets) -> Reproduction:
    """Make the attempt under a progress bar; Ctrl-C ends with a line that says how to go on."""
    from rich.console import Console

    from arvbench.harness.commands.progress import ProgressBar
    from arvbench.harness.reproduce.cases import command_of, full_suite, smoke_suite
    from arvbench.harness.reproduce.reproduce import reproduce

    console = Console(stderr=True)
    cases = (*smoke_suite(attempt).cases, *full_suite(attempt).cases)
    try:
        with ProgressBar(console, cases=cases) as listener:
            return reproduce(attempt, targets, listener)
    except KeyboardInterrupt:
        line = f"interrupted; what is finished is kept, go on with: {command_of(attempt)}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _print_plan(attempt: Attempt, targets: Targets, needs: Sequence[Need], *, as_json: bool) -> None:
    """Print what an attempt would do."""
    from arvbench.harness.reproduce.cases import command_of
    from arvbench.results.metrics import label_of

    if as_json:
        targets_json = [target.model_dump(mode="json") for target in targets.judged]
        plan = {"model": attempt.model, "images": attempt.images, "published": targets_json,
                "needs": [need.model_dump(mode="json") for need in needs], "command": command_of(attempt)}  # fmt: skip
        typer.echo(json.dumps(plan, indent=2))
        return
    first = targets.judged[0]
    settings = {} if attempt.recipe is None else dict(attempt.recipe.settings) | {"dtype": attempt.recipe.dtype}
    lines = [
        f"model      {attempt.model}, weights {attempt.weights if not needs else 'missing'}, on {attempt.device}",
        f"published  {', '.join(f'{label_of(t.metric).text} {t.value:g}' for t in targets.judged)}",
        f"source     {first.source} ({first.seen})",
        f"recipe     {', '.join(f'{name} {value}' for name, value in settings.items()) or 'the recorded run'}",
        f"images     {attempt.images:,} of {attempt.published_images:,} published",
        f"reference  {attempt.reference}",
        f"folder     {attempt.folder}",
    ]
    typer.echo("\n".join(lines))
    if attempt.images != attempt.published_images:
        typer.echo(f"note: a verdict needs the published {attempt.published_images:,} images")


def _print_needs(model: str, needs: Sequence[Need], *, quiet: bool, as_json: bool) -> None:
    """Print what is missing, unless a plan as JSON has said so."""
    from arvbench.reports.tables.terminal_reproduction import needs_lines

    if as_json and not quiet:
        content = {"model": model, "needs": [need.model_dump(mode="json") for need in needs], "rehearse": REHEARSAL}
        typer.echo(json.dumps(content, indent=2))
    elif not as_json:
        typer.echo("\n".join(needs_lines(model, needs, REHEARSAL)))
    files = ", ".join(need.file for need in needs)
    typer.echo(f"error: {model} cannot be reproduced here without {files}", err=True)


def _print(made: Reproduction, *, as_json: bool) -> None:
    from rich.console import Console

    from arvbench.reports.tables.terminal_reproduction import suspect_lines, terminal_reproduction

    if as_json:
        typer.echo(made.model_dump_json(indent=2))
        return
    console = Console()
    console.print(terminal_reproduction(made, width=console.width))
    for line in suspect_lines(made.suspects, console.width):
        typer.echo(line)
