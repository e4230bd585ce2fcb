"""Output of `run --share images`: the share of every case that this process has drawn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from arvbench.errors import HostError, UserError
from arvbench.paths import printable

if TYPE_CHECKING:
    from arvbench.harness.run.ranks import Rank
    from arvbench.harness.suites.suite import Suite

EXIT_FAILURES = 1


def draw_shares(suite: Suite, rank: Rank, folder: Path, files: Mapping[str, Path]) -> None:
    """Keep the features of one shard of the images of every case of a suite that asks for quality.

    A case that fails is named, and the next one follows. Exit code 1 then. Raises UserError where no case asks for
    quality, and for a search.
    """
    from rich.console import Console

    from arvbench.harness.commands.progress import ProgressBar
    from arvbench.harness.run.shares import draw_share
    from arvbench.harness.suites.searches import refuse_searches

    refuse_searches(
        suite, "its next point follows from the images of the one before, which cannot be shared beforehand"
    )
    cases = [case for case in suite.first_launches if case.config.quality is not None]
    if not cases:
        raise UserError(f"no case of {suite.source} asks for quality: there are no images to share")
    failed = 0
    for case in cases:
        try:
            with ProgressBar(Console(stderr=True)) as listener:
                images = draw_share(case, rank.shard, folder, files, listener)
        except (UserError, HostError) as error:
            failed += 1
            typer.echo(f"failed: {case.title}: {printable(str(error))}", err=True)
            continue
        named = f"images {images.start}..{images.stop - 1}" if images else "no images"
        typer.echo(f"shard {rank.shard}: {named} of {case.title}")
    typer.echo(f"when all shards are there: arvbench merge {folder.parent} --out DIR, then the same run with --out DIR")
    if failed:
        raise typer.Exit(EXIT_FAILURES)
