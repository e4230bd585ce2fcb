"""`arvbench convert`: merge training checkpoints into the file that a sampler loads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from arvbench.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from arvbench.adapters.sampler import ModelSpec


def convert(
    model: Annotated[str, typer.Argument(help="An HMAR, such as hmar-d16.")],
    nsp: Annotated[Path, typer.Option(metavar="FILE", help="Training checkpoint of next-scale prediction.")],
    mp: Annotated[Path, typer.Option(metavar="FILE", help="Training checkpoint of masked prediction.")],
    out: Annotated[Path, typer.Option(metavar="FILE.safetensors", help="Where to write the merged weights.")],
    tokenizer: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The tokenizer's file, for a model without official files; goes into --out."),
    ] = None,
) -> None:
    """Merge the two training checkpoints of an HMAR into one file of weights.

    Both must be of one training: what the second stage left frozen has to be equal in both.

    Examples:

      arvbench convert hmar-d16 --nsp nsp.pth --mp mp.pth --out ckpts/hmar-d16.safetensors

      arvbench run speed256 --models hmar-d16 --weights ckpts/hmar-d16.safetensors
    """
    from arvbench.adapters import MODELS
    from arvbench.adapters.checkpoints import sha256_of

    spec = MODELS[model]
    _check_options(spec, out, tokenizer)
    files = {"nsp": nsp, "mp": mp} | ({} if tokenizer is None else {"tokenizer": tokenizer})
    tensors = _merge(spec, files)
    _write(tensors, out, {"model": model} | {f"{part}_sha256": sha256_of(path) for part, path in files.items()})
    beside = "" if spec.checkpoint is None else f" with {spec.checkpoint.tokenizer_file} beside it"
    typer.echo(f"wrote {len(tensors)} tensors; use {model} with --weights {out}{beside}")


def _check_options(spec: ModelSpec, out: Path, tokenizer: Path | None) -> None:
    if spec.family != "hmar":
        raise UserError(f"{spec.name} is not an HMAR: only HMAR saves its two predictions in two training checkpoints")
    if out.suffix.lower() != ".safetensors":
        raise UserError(f"--out {out}: what is written is a .safetensors file, so give it that ending")
    if spec.checkpoint is None and tokenizer is None:
        raise UserError(f"{spec.name} has no official files to take the tokenizer from: give its file with --tokenizer")
    if spec.checkpoint is not None and tokenizer is not None:
        beside = spec.checkpoint.tokenizer_file
        raise UserError(f"{spec.name} takes its tokenizer from {beside} beside the weights: no --tokenizer")


def _merge(spec: ModelSpec, files: Mapping[str, Path]) -> dict[str, Tensor]:
    """Return the merged transformer; with a tokenizer among the files, the bundle of both."""
    from arvbench.adapters.checkpoints import load_strict, read_tensors
    from arvbench.adapters.hmar.checkpoints import TRAINING_NESTING, merge_stages
    from arvbench.adapters.loading import meta_modules

    nsp, mp = (read_tensors(files[stage], TRAINING_NESTING) for stage in ("nsp", "mp"))
    transformer = merge_stages(nsp, mp, spec.transformer)
    if "tokenizer" not in files:
        return transformer
    module = meta_modules(spec)["tokenizer"]
    tokenizer = module.adapt_state(read_tensors(files["tokenizer"], (("trainer", "vae_local"),)))  # type: ignore[operator]
    load_strict(module, tokenizer, source=str(files["tokenizer"]))
    parts = {"transformer": transformer, "tokenizer": tokenizer}
    return {f"{part}.{name}": tensor for part, state in parts.items() for name, tensor in state.items()}


def _write(tensors: Mapping[str, Tensor], out: Path, metadata: dict[str, str]) -> None:
    """Write the file whole or not at all. Raises UserError or HostError, as `cannot_write`."""
    from arvbench.disk import cannot_write, save_tensors
    from arvbench.files import replacing

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as part:
            save_tensors(tensors, part, metadata)
    except OSError as error:
        raise cannot_write(out, error, kept="nothing is left of it") from error
