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
        list[Path], typer.Argument(help="Shards, or folders of shards, that `arvbench eval` wrote.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Work folder to make.")],
) -> None:
    """Merge shards of an evaluation, and prove that every image 0..N-1 is in them once and has its digest.

    `arvbench eval SAMPLES --work DIR` then gives the numbers, reading no image: on equal hardware those of one process,
    bit for bit. Exit code: 0 merged, 1 images are missing, doubled or damaged (each listed, nothing is written), 2 bad
    input, such as shards of different evaluations.

    Examples:

      arvbench merge shards --out whole
    """
    from arvbench.harness.quality.features.shards import check_shards, merge_shards, shard_folders

    shards = shard_folders(folders)
    coverage = check_shards(shards)
    _print(coverage)
    if not coverage.whole:
        raise typer.Exit(EXIT_INCOMPLETE)
    merge_shards(shards, coverage, out)
    typer.echo(f"{coverage.images} images of {len(shards)} shard(s), each once: {out}")


def _print(coverage: Coverage) -> None:
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
        typer.echo(
            f"warning: {len(coverage.hardware)} kinds of hardware ({'; '.join(coverage.hardware)}): last bits may "
            "differ from those of one machine",
            err=True,
        )
