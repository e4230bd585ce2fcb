"""`arvbench reference make`: statistics of one's own images, to compare samples with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from arvbench.harness.commands.options import (
    Device,
    ExtractorWeights,
    InceptionWeights,
    WorkFolder,
    comma_list,
    extractor_files,
)

if TYPE_CHECKING:
    from arvbench.harness.quality.reference.make import ReferenceFile

GROUP_HELP = """Make references that samples are compared with.

Examples:

  arvbench reference make imagenet/train256 --out ref.npz --use gFID

  arvbench eval samples.npz --reference ref.npz
"""


def make(
    images: Annotated[
        str,
        typer.Argument(metavar="DIR", help="Images: a folder of PNG or JPEG, .npz, .safetensors, or the name digits."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE.npz", help="Where to write the reference.")],
    protocol: Annotated[
        list[str] | None,
        typer.Option("--protocol", metavar="NAMES", help="Such as adm-v1,cmmd; repeatable.  [default: adm-v1]"),
    ] = None,
    keep_images: Annotated[
        int, typer.Option(min=0, help="Images that go into the file, for precision and recall; 0 for none.")
    ] = 10_000,
    seed: Annotated[int, typer.Option(help="Of the choice of the images that are kept.")] = 0,
    use: Annotated[
        Literal["gFID", "rFID"] | None,
        typer.Option(help="What it is for: gFID judges generated images, rFID reconstructions.", show_default=False),
    ] = None,
    resize: Annotated[
        str | None, typer.Option(metavar="RULE", help="Resize the images first, such as pil-bicubic:256.")
    ] = None,
    inception_weights: InceptionWeights = None,
    extractor_weights: ExtractorWeights = None,
    device: Device = "cpu",
    work: WorkFolder = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that exists.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record of what was made as JSON.")] = False,
) -> None:
    """Write means and covariances of all images in DIR, and some of the images, to one file.

    The file has the layout of the ADM evaluator's references (arr_0, mu, sigma, mu_s, sigma_s), which that evaluator
    reads too, and says which networks its statistics are of. Without adm-v1 there are no mu and sigma in it.

    Examples:

      arvbench reference make imagenet/train256 --out ref.npz --use gFID --inception-weights PATH

      arvbench reference make imagenet/val256 --out val.npz --use rFID --protocol adm-v1,clean-fid --work features

      arvbench reference make digits --out digits.npz --protocol digits-cnn --keep-images 500
    """
    made = _make(
        images,
        out,
        protocols=list(comma_list(protocol or ["adm-v1"])),
        keep=keep_images,
        seed=seed,
        use=use or "",
        resize=resize,
        inception_weights=inception_weights,
        extractor_weights=extractor_weights,
        device=device,
        work=work,
        force=force,
    )
    if as_json:
        typer.echo(_as_json(made))
        return
    record = made.record
    typer.echo(f"wrote {made.path}: statistics of {record.images:,} images, {record.kept:,} of them kept")
    for name, extractor in record.extractors.items():
        typer.echo(f"  {name} ({', '.join(extractor.layers)}), weights sha256 {extractor.sha256[:12]}...")
    typer.echo(f"  sha256 {made.sha256}")


def _make(
    images: str,
    out: Path,
    *,
    protocols: list[str],
    keep: int,
    seed: int,
    use: Literal["gFID", "rFID", ""],
    resize: str | None,
    inception_weights: Path | None,
    extractor_weights: list[str] | None,
    device: str,
    work: Path | None,
    force: bool,
) -> ReferenceFile:
    from rich.console import Console

    from arvbench.adapters.loading import usable_device
    from arvbench.harness.commands.progress import ProgressBar
    from arvbench.harness.jobs import Event
    from arvbench.harness.quality.features.feature_pass import FeaturePass
    from arvbench.harness.quality.reference.make import (
        ReferenceRequest,
        check_output,
        make_reference,
        needs_of,
        source_of,
    )

    check_output(out, force=force)
    source = source_of(images, resize)
    files, where = extractor_files(inception_weights, extractor_weights), usable_device(device)
    with ProgressBar(Console(stderr=True)) as listener:
        listener(Event(phase="extractors"))
        features = FeaturePass(device=where, extractor_files=files, work=work)
        return make_reference(
            source,
            needs_of(protocols, features.extractor),
            ReferenceRequest(out=out, protocols=tuple(protocols), keep=keep, seed=seed, use=use, force=force),
            features=features,
            progress=lambda done: listener(Event(phase="images", done=done, total=source.count)),
        )


def _as_json(made: ReferenceFile) -> str:
    import json

    return json.dumps({"path": str(made.path), "sha256": made.sha256, **made.record.model_dump(mode="json")}, indent=2)
