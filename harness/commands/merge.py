"""`arvbench merge`: make one work folder of the shards of an evaluation, after proving that they are the whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from arvbench.harness.quality.features.shards import Coverage

EXIT_INCOMPLETE = 1
_SHOWN = 20


def merge(
    folders: Annotated[
        list[Path], typer.Argument(help="Shards that `eval` or `run` wrote, or folders of them.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Work folder to make.")],
) -> None:
    """Merge shards, and prove that every image 0..N-1 is in them once and has its digest.

    After `arvbench eval --shard`, `arvbench eval SAMPLES --work DIR` gives the numbers and reads no image; after
    `arvbench run SUITE --share images`, `arvbench run SUITE --out DIR` gives the records and draws no image for
    quality. On equal hardware the numbers are those of one process, bit for bit. Exit code: 0 merged, 1 images are
    missing, doubled or damaged (each listed, nothing is written), 2 bad input, such as shards of different evaluations.

    Examples:

      arvbench merge shards --out whole
    """
    from arvbench.harness.quality.features.shards import check_shards, merge_shards, shard_folders
    from arvbench.harness.run.shares import case_shards

    groups = case_shards(folders) or {Path(): shard_folders(folders)}
    found = [(out / place, shards, check_shards(shards)) for place, shards in groups.items()]
    for _, _, coverage in found:
        _print(coverage)
    if not all(coverage.whole for _, _, coverage in found):
        raise typer.Exit(EXIT_INCOMPLETE)
    for place, shards, coverage in found:
        merge_shards(shards, coverage, place)
        of = f" of {coverage.case}" if coverage.case else ""
        typer.echo(f"{coverage.images} images{of} of {len(shards)} shard(s), each once: {place}")


def _print(coverage: Coverage) -> None:
    if coverage.case and not coverage.whole:
        typer.echo(f"{coverage.case}:", err=True)
    for images in coverage.missing:
        typer.echo(f"missing: images {images.start}..{images.stop - 1}", err=True)
    for images, paths in coverage.doubled[:_SHOWN]:
        names = ", ".join(str(path) for path in paths)
        typer.echo(f"doubled: images {images.start}..{images.stop - 1} in {names}", err=True)
    if len(coverage.doubled) > _SHOWN:
        typer.echo(f"doubled: {len(coverage.doubled) - _SHOWN} more ranges", err=True)
    for text in coverage.damaged:
        typer.echo(f"damaged: {text}", err=True)
    for machine in coverage.machines:
        typer.echo(f"machine {machine.host}: {machine.hardware}")
    if len(coverage.hardware) > 1:
        typer.echo(f"warning: {coverage.mixture}", err=True)
