"""From a model's name and a source of weights to a sampler.

Sources  a folder with the official files, one official file (the tokenizer's beside it), a bundle written by
         `arvbench train`, "hub", "demo", "random:SEED"
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from arvbench.adapters.base import Backend, Checkpoint, ModelSpec, Sampler, WeightsInfo
from arvbench.adapters.checkpoints import (
    Shapes,
    load_strict,
    nearest,
    random_tensors,
    read_tensors,
    sha256_of,
    shapes_of,
)
from arvbench.adapters.registry import MODELS
from arvbench.errors import CheckpointError, HostError, UserError

DEMO_FOLDER = Path(__file__).parent / "demo"

State = dict[str, dict[str, Tensor]]
"""Part ("transformer", "tokenizer") -> state dict."""


def load_sampler(
    name: str,
    *,
    weights: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    backend: Backend = "reference",
) -> Sampler:
    """Build the model `name` strictly from `weights` and return its sampler.

    Raises UnknownName, CheckpointError (a file that does not fit, with the model it most looks like), HostError (no
    such device) or UserError.
    """
    return build_sampler(MODELS[name], weights=str(weights), device=device, dtype=dtype, backend=backend)


def build_sampler(
    spec: ModelSpec,
    *,
    weights: str,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    backend: Backend = "reference",
) -> Sampler:
    """`load_sampler` for a spec that is in no table."""
    if backend not in ("reference", "optimized"):
        raise UserError(f"no backend {backend!r}; known: reference, optimized")
    device = usable_device(device)
    modules = meta_modules(spec)
    state, info = _read(spec, weights, modules, device)
    return assemble(spec, state, info, device=device, dtype=dtype, backend=backend)


def assemble(
    spec: ModelSpec,
    state: State,
    info: WeightsInfo,
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    backend: Backend = "reference",
) -> Sampler:
    """Build the modules of `spec`, give them the tensors in `state` strictly, and return the sampler."""
    modules = meta_modules(spec)
    for part, module in modules.items():
        _fill(module, part, state[part], source=info.source)
    return spec.sampler(spec, modules, weights=info, backend=backend, device=device, dtype=dtype)


def usable_device(device: str | torch.device) -> torch.device:
    """Return the device, or raise HostError when this machine has none of that kind."""
    try:
        device = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"no device {str(device)!r}; known: cpu, cuda, cuda:N") from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise HostError("CUDA was asked for, but torch finds no usable GPU here; use --device cpu, or see `doctor`")
        if device.index is not None and device.index >= torch.cuda.device_count():
            raise HostError(f"there is no {device}: this machine has {torch.cuda.device_count()} GPU(s)")
    return device


def meta_modules(spec: ModelSpec) -> dict[str, nn.Module]:
    """The model's modules without memory: names, shapes and dtypes only."""
    with torch.device("meta"):
        return spec.sampler.build_modules(spec)


def _read(
    spec: ModelSpec, weights: str, modules: Mapping[str, nn.Module], device: torch.device
) -> tuple[State, WeightsInfo]:
    if weights == "random" or weights.startswith("random:"):
        seed = _random_seed(weights)
        state = {part: random_tensors(module, seed, device) for part, module in modules.items()}
        return state, WeightsInfo(source=weights, random=True)
    if weights == "demo":
        files = _demo_files(spec)
    elif weights == "hub":
        files = _hub_files(spec)
    else:
        files = _local_files(spec, Path(weights).expanduser())
    state = {part: _read_part(spec, part, path) for part, path in files.items()}
    digests = {path.name: sha256_of(path) for path in dict.fromkeys(files.values())}
    return state, WeightsInfo(source=weights, random=False, sha256=digests)


def _random_seed(weights: str) -> int:
    match = re.fullmatch(r"random:(\d{1,18})", weights)
    if match is None:
        raise UserError(f"weights {weights!r}: random weights need a seed, such as random:0")
    return int(match[1])


def _demo_files(spec: ModelSpec) -> dict[str, Path]:
    if not spec.demo:
        raise CheckpointError(f"{spec.name} has no demo weights; models that have: {', '.join(demo_models())}")
    return _bundle(DEMO_FOLDER / f"{spec.name.removeprefix('demo/')}.safetensors")


def demo_models() -> list[str]:
    """Names of the models whose trained weights are part of this package."""
    return [name for name in MODELS if name.startswith("demo/")]


def _hub_files(spec: ModelSpec) -> dict[str, Path]:
    checkpoint = _checkpoint(spec)
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    files = {}
    for part, name in _official_names(checkpoint).items():
        try:
            files[part] = Path(hf_hub_download(checkpoint.hub_repo, name))
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            raise CheckpointError(
                f"could not get {name} of {checkpoint.hub_repo} from the Hugging Face hub "
                f"({type(error).__name__}); download it yourself and pass its folder as weights"
            ) from error
    return files


def _local_files(spec: ModelSpec, path: Path) -> dict[str, Path]:
    if path.suffix == ".safetensors" and path.is_file() and spec.checkpoint is None:
        return _bundle(path)
    if spec.checkpoint is None:
        raise CheckpointError(
            f"{spec.name} has no official files; weights must be demo, random:SEED or a .safetensors bundle"
        )
    names = _official_names(spec.checkpoint)
    if path.is_dir():
        files = {part: path / name for part, name in names.items()}
    elif path.is_file():
        files = {"transformer": path, "tokenizer": path.with_name(names["tokenizer"])}
    else:
        raise CheckpointError(f"no weights at {path}: give a folder, a file, hub, demo or random:SEED")
    for file in files.values():
        if not file.is_file():
            raise CheckpointError(f"{file} is missing; get it from huggingface.co/{spec.checkpoint.hub_repo}")
    return files


def _bundle(path: Path) -> dict[str, Path]:
    return {"transformer": path, "tokenizer": path}


def _checkpoint(spec: ModelSpec) -> Checkpoint:
    if spec.checkpoint is None:
        raise CheckpointError(f"{spec.name} has no official files to download")
    return spec.checkpoint


def _official_names(checkpoint: Checkpoint) -> dict[str, str]:
    return {"transformer": checkpoint.transformer_file, "tokenizer": checkpoint.tokenizer_file}


def _read_part(spec: ModelSpec, part: str, path: Path) -> dict[str, Tensor]:
    if spec.checkpoint is None:
        tensors = read_tensors(path)
        # Bundles are stored in half precision to stay small.
        return {
            key.removeprefix(f"{part}."): tensor.float() if tensor.is_floating_point() else tensor
            for key, tensor in tensors.items()
            if key.startswith(f"{part}.")
        }
    nesting = spec.checkpoint.transformer_nesting if part == "transformer" else spec.checkpoint.tokenizer_nesting
    return read_tensors(path, nesting)


def _fill(module: nn.Module, part: str, tensors: dict[str, Tensor], *, source: str) -> None:
    adapt = getattr(module, "adapt_state", None)
    if adapt is not None:
        tensors = adapt(tensors)
    try:
        load_strict(module, tensors, source=f"{part} weights from {source}")
    except CheckpointError as error:
        if "does not fit" not in str(error):
            raise
        raise CheckpointError(f"{error}. {_likeness(shapes_of(tensors))}") from error


def _likeness(file: Shapes) -> str:
    name, share = nearest(file, _known_shapes())
    if share == 0:
        return "It looks like no model known here"
    return f"It looks most like {name} ({share:.0%} of names and shapes agree)"


def _known_shapes() -> list[tuple[str, Shapes]]:
    return [
        (f"the {part} of {name}", shapes_of(module.state_dict()))
        for name in MODELS
        for part, module in meta_modules(MODELS[name]).items()
    ]
