"""`arvbench versus`: one model beside the official code of its authors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from arvbench.disk import cannot_write
from arvbench.errors import ExitCode, UserError
from arvbench.harness.commands.options import settings_by_key
from arvbench.kernels.backends import BackendName
from arvbench.paths import printable

if TYPE_CHECKING:
    from arvbench.harness.versus.trial import Versus, VersusRequest

_EXIT = {"ok": ExitCode.OK, "incorrect": ExitCode.FAILURES, "error": ExitCode.FAILURES, "unsupported": ExitCode.HOST}


def versus(
    model: Annotated[str, typer.Argument(help="A known model, such as var-d16 or demo/var.")],
    upstream_root: Annotated[
        Path, typer.Option("--upstream-root", metavar="DIR", help="Checkout of the model's official repository.")
    ],
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Folder of official files, or demo, hub, random:SEED.  [default: demo, where there is one]",
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images of a call.")] = 1,
    launches: Annotated[int, typer.Option(min=1, max=1000, help="Fresh processes per side, in turns.")] = 6,
    repeats: Annotated[int, typer.Option(min=1, help="Timed calls of a launch.")] = 5,
    variant: Annotated[
        Literal["as-is", "quiet"],
        typer.Option(help="quiet takes the official code's empty_cache and synchronize out of the calls."),
    ] = "as-is",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Sampling setting, such as settings.cfg=2; repeatable."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    dtype: Annotated[Literal["float32", "bfloat16", "float16"], typer.Option(help="Of both sides.")] = "float32",
    backend: Annotated[BackendName, typer.Option(help="Our implementation.")] = "optimized",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.  [default: the cores]")] = None,
    seed: Annotated[int, typer.Option(help="Of the random stream that both sides draw from.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder.  [default: results/runs/versus-MODEL]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print versus.json.")] = False,
) -> None:
    """Run the official code of MODEL beside ours: equal weights, labels, settings and random stream.

    First both sides draw the same ids, or no time is taken. Then fresh processes of both are timed in turns, and every
    ratio has its interval. DIR is a checkout that you have; it is imported in a process of its own, and nothing of it
    is copied. DIR of --out gets versus.json and versus.md.

    Examples:

      arvbench versus demo/var --upstream-root ~/VAR

      arvbench versus flexvar-d16 --weights random:0 --upstream-root ~/FlexVAR --launches 4 --repeats 3

      arvbench versus var-d16 --weights ~/ckpts --upstream-root ~/VAR --device cuda --dtype bfloat16 --batch 64
    """
    overrides = settings_by_key(settings, prefix="settings.", example="settings.cfg=2")
    choice = {"model": model, "weights": weights, "device": device, "dtype": dtype, "backend": backend, "batch": batch}
    case = choice | {"settings": overrides, "launches": launches, "repeats": repeats, "threads": threads}
    request = _request(case, upstream_root, variant, seed)
    folder = out or Path("results/runs") / f"versus-{model.replace('/', '-')}"
    done = _compare(request, folder)
    if as_json:
        typer.echo(done.model_dump_json(indent=2))
    else:
        _show(done, folder)
    if code := _EXIT[done.status]:
        raise typer.Exit(code)


def _request(case: dict[str, Any], root: Path, variant: Literal["as-is", "quiet"], seed: int) -> VersusRequest:
    """Return the request of a case. Raises UserError for settings or weights that its model does not have."""
    from arvbench.adapters.registry import MODELS
    from arvbench.harness.versus.trial import VersusRequest
    from arvbench.results.schema import CaseConfig

    spec = MODELS[case["model"]]
    if case["weights"] is None and not spec.demo:
        raise UserError(f"{spec.name} has no demo weights: say --weights DIR, or random:SEED")
    config = CaseConfig(**case | {"weights": case["weights"] or "demo"})
    spec.sampler.check_settings(spec, spec.settings.replace(**config.settings))
    return VersusRequest(case=config, root=root, variant=variant, seed=seed)


def _compare(request: VersusRequest, folder: Path) -> Versus:
    """Make the comparison under a progress bar, and write its files."""
    from rich.console import Console

    from arvbench.files import write_whole
    from arvbench.harness.commands.progress import ProgressBar
    from arvbench.harness.versus.trial import compare_with_official
    from arvbench.harness.versus.wording import markdown

    with ProgressBar(Console(stderr=True)) as bar:
        try:
            done = compare_with_official(request, folder, bar)
            write_whole(folder / "versus.md", markdown(done))
        except OSError as error:
            raise cannot_write(folder, error) from error
    return done


def _show(done: Versus, folder: Path) -> None:
    """Print the table and what belongs to it."""
    from rich.console import Console
    from rich.table import Table

    from arvbench.harness.versus.wording import COLUMNS, cells, sentences

    console = Console()
    if done.ratios:
        table = Table(box=None, pad_edge=False)
        for name in COLUMNS:
            table.add_column(name, justify="left" if name == "Scope" else "right")
        for ratio in done.ratios:
            table.add_row(*cells(ratio))
        console.print(table)
    for line in sentences(done):
        console.print(printable(line), markup=False, highlight=False)
    console.print(f"see {printable(folder)}/versus.json", markup=False, highlight=False, soft_wrap=True)
