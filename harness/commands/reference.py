"""`arvbench reference make`: write statistics of images, to compare samples with."""

from __future__ import annotations

import json
from functools import partial
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
    from collections.abc import Callable

    from arvbench.harness.quality.features.feature_pass import FeaturePass
    from arvbench.harness.quality.images.source import ImageSource
    from arvbench.harness.quality.reference.make import ReferenceFile, ReferenceRequest

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
    class_folders: Annotated[
        bool, typer.Option("--class-folders", help="The subfolders of DIR are classes, whatever they look like.")
    ] = False,
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
    from arvbench.harness.quality.features.feature_pass import FeaturePass
    from arvbench.harness.quality.reference.make import ReferenceRequest

    protocols = comma_list(protocol) or ("adm-v1",)
    request = ReferenceRequest(out=out, protocols=protocols, keep=keep_images, seed=seed, use=use or "", force=force)
    files = extractor_files(inception_weights, extractor_weights)
    opened = partial(_open, images, resize, class_folders=class_folders)
    written = _make(opened, request, FeaturePass(device=device, extractor_files=files, work=work))
    _print(written, as_json=as_json)


def _open(images: str, resize: str | None, *, class_folders: bool) -> ImageSource:
    """Open the images of the reference; warn when their name is that of a data set and of a file."""
    from arvbench.harness.quality.reference.load import shadowed
    from arvbench.harness.quality.reference.make import source_of

    if doubt := shadowed(images):
        typer.echo(f"warning: {doubt}", err=True)
    return source_of(images, resize, class_folders=class_folders)


def _make(open_source: Callable[[], ImageSource], request: ReferenceRequest, features: FeaturePass) -> ReferenceFile:
    """Check the options, then write the file under a progress bar."""
    from rich.console import Console

    from arvbench.adapters.loading import usable_device
    from arvbench.harness.commands.progress import ProgressBar
    from arvbench.harness.jobs import Event
    from arvbench.harness.quality.reference.make import check_output, make_reference, needs_of

    check_output(request.out, force=request.force)
    source = open_source()
    usable_device(features.device)
    with ProgressBar(Console(stderr=True)) as listener:

        def progress(done: int) -> None:
            listener(Event(phase="images", done=done, total=source.count))

        listener(Event(phase="extractors"))
        needs = needs_of(request.protocols, features.extractor)
        return make_reference(source, needs, request, features=features, progress=progress)


def _print(written: ReferenceFile, *, as_json: bool) -> None:
    record = written.record
    if as_json:
        fields = {"path": str(written.path), "sha256": written.sha256, **record.model_dump(mode="json")}
        typer.echo(json.dumps(fields, indent=2))
        return
    typer.echo(f"wrote {written.path}: statistics of {record.images:,} images, {record.kept:,} of them kept")
    for name, extractor in record.extractors.items():
        typer.echo(f"  {name} ({', '.join(extractor.layers)}), weights sha256 {extractor.sha256[:12]}...")
    typer.echo(f"  sha256 {written.sha256}")
