"""`arvbench convert`: make the file that a sampler takes out of training checkpoints."""

from __future__ import annotations

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
    from arvbench.adapters.checkpoints import read_tensors, sha256_of
    from arvbench.adapters.hmar.checkpoints import TRAINING_NESTING, merge_stages

    spec = MODELS[model]
    if spec.family != "hmar":
        raise UserError(f"{model} is no HMAR: only HMAR saves its two predictions in two training checkpoints")
    if out.suffix != ".safetensors":
        raise UserError(f"--out {out}: what is written is a .safetensors file, so give it that ending")
    if (spec.checkpoint is None) != (tokenizer is not None):
        raise UserError(_tokenizer_hint(spec))
    files = {"nsp": nsp, "mp": mp}
    stages = {stage: read_tensors(path, TRAINING_NESTING) for stage, path in files.items()}
    tensors = merge_stages(stages["nsp"], stages["mp"], spec.transformer)
    if tokenizer is not None:
        files["tokenizer"] = tokenizer
        tensors = _bundle(spec, tensors, tokenizer)
    _write(tensors, out, {"model": model} | {f"{stage}_sha256": sha256_of(path) for stage, path in files.items()})
    beside = "" if spec.checkpoint is None else f" with {spec.checkpoint.tokenizer_file} beside it"
    typer.echo(f"wrote {len(tensors)} tensors; use {model} with --weights {out}{beside}")


def _tokenizer_hint(spec: ModelSpec) -> str:
    if spec.checkpoint is None:
        return f"{spec.name} has no official files to take the tokenizer from: give its file with --tokenizer"
    return f"{spec.name} takes its tokenizer from {spec.checkpoint.tokenizer_file} beside the weights: no --tokenizer"


def _bundle(spec: ModelSpec, transformer: dict[str, Tensor], tokenizer: Path) -> dict[str, Tensor]:
    """Both parts in one file, checked."""
    from arvbench.adapters.checkpoints import load_strict, read_tensors
    from arvbench.adapters.loading import meta_modules

    module = meta_modules(spec)["tokenizer"]
    tensors = module.adapt_state(read_tensors(tokenizer, (("trainer", "vae_local"),)))  # type: ignore[operator]
    load_strict(module, tensors, source=str(tokenizer))
    parts = {"transformer": transformer, "tokenizer": tensors}
    return {f"{part}.{name}": tensor for part, state in parts.items() for name, tensor in state.items()}


def _write(tensors: dict[str, Tensor], out: Path, metadata: dict[str, str]) -> None:
    from safetensors.torch import save_file

    from arvbench.harness.training.output import staged

    with staged(out.parent) as folder:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / out.name, metadata)
