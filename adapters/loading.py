"""From a model's name and a source of weights to a sampler.

Sources  a folder with the official files, one official file (the tokenizer's beside it), a bundle written by
         `arvbench train`, "hub", "demo", "random:SEED"
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from arvbench.adapters.checkpoints import (
    MisfitError,
    Shapes,
    load_strict,
    nearest,
    random_tensors,
    read_tensors,
    sha256_of,
    shapes_of,
)
from arvbench.adapters.common.meta import on_meta
from arvbench.adapters.registry import MODELS
from arvbench.adapters.sampler import ModelSpec, Sampler, WeightsInfo
from arvbench.errors import ArvbenchError, CheckpointError, HostError, UserError
from arvbench.kernels.backends import backend_named

_BUNDLE_HINT = "this model takes a .safetensors file that `arvbench train` wrote"

DEMO_FOLDER = Path(__file__).parent / "demo"

State = dict[str, dict[str, Tensor]]
"""Part ("transformer", "tokenizer") -> state dict."""


def load_sampler(
    name: str,
    *,
    weights: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    backend: str = "reference",
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
    backend: str = "reference",
) -> Sampler:
    """`load_sampler` for a spec that is in no table."""
    backend_named(backend)
    device = usable_device(device)
    state, info = _read(spec, weights, device)
    spec = spec.sampler.adapt_spec(spec, state["transformer"])
    return assemble(spec, state, info, device=device, dtype=dtype, backend=backend)


def assemble(
    spec: ModelSpec,
    state: State,
    info: WeightsInfo,
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    backend: str = "reference",
) -> Sampler:
    """Build the modules of `spec`, give them the tensors in `state` strictly, and return the sampler."""
    modules = meta_modules(spec)
    for part, module in modules.items():
        _fill(module, state[part], source=f"{part} weights from {info.source}")
    return spec.sampler(spec, modules, weights=info, backend=backend, device=device, dtype=dtype)


def locate_weights(spec: ModelSpec, weights: str) -> dict[str, Path]:
    """Files that `weights` stands for, by part, without reading them.

    Empty for random weights, and for "hub", whose files are known once they are downloaded. Raises CheckpointError for
    a file that is not there or a model without such weights, UserError for a malformed `random:SEED`.
    """
    if _is_random(weights):
        _random_seed(weights)
        return {}
    if weights == "hub":
        _official_names(spec)
        return {}
    return _demo_files(spec) if weights == "demo" else _local_files(spec, Path(weights).expanduser())


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
    return on_meta(lambda: spec.sampler.build_modules(spec))


def _read(spec: ModelSpec, weights: str, device: torch.device) -> tuple[State, WeightsInfo]:
    if _is_random(weights):
        seed = _random_seed(weights)
        state = {part: random_tensors(module, seed, device) for part, module in meta_modules(spec).items()}
        return state, WeightsInfo(source=weights, random=True)
    files = _hub_files(spec) if weights == "hub" else locate_weights(spec, weights)
    state = _read_official(spec, files) if spec.checkpoint else _read_bundle(files["transformer"])
    digests = {path.name: sha256_of(path) for path in dict.fromkeys(files.values())}
    return state, WeightsInfo(source=weights, random=False, sha256=digests)


def _is_random(weights: str) -> bool:
    return weights == "random" or weights.startswith("random:")


def _random_seed(weights: str) -> int:
    match = re.fullmatch(r"random:(\d{1,18})", weights)
    if match is None:
        raise UserError(f"weights {weights!r}: random weights need a seed, such as random:0")
    return int(match[1])


def _demo_files(spec: ModelSpec) -> dict[str, Path]:
    if not spec.demo:
        raise CheckpointError(f"{spec.name} has no demo weights; models that have: {', '.join(demo_models())}")
    return _local_bundle(DEMO_FOLDER / f"{spec.name.removeprefix('demo/')}.safetensors")


def demo_models() -> list[str]:
    """Names of the models whose trained weights are part of this package."""
    return [name for name, spec in known_specs() if spec.demo]


def known_specs() -> Iterator[tuple[str, ModelSpec]]:
    """Every model that can be imported; a broken plug-in costs its own models and no others."""
    for name in MODELS:
        with contextlib.suppress(ArvbenchError):
            yield name, MODELS[name]


def _hub_files(spec: ModelSpec) -> dict[str, Path]:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    files = {}
    for part, (repository, name) in _official_names(spec).items():
        try:
            files[part] = Path(hf_hub_download(repository, name))
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            raise CheckpointError(
                f"could not get {name} of {repository} from the Hugging Face hub ({type(error).__name__}); download it "
                "yourself and pass its folder as weights"
            ) from error
    return files


def _local_files(spec: ModelSpec, path: Path) -> dict[str, Path]:
    if not path.exists():
        raise CheckpointError(f"no weights at {path}: give a folder, a file, hub, demo or random:SEED")
    if spec.checkpoint is None:
        return _local_bundle(path)
    names = _official_names(spec)
    files = {part: path / name for part, (_, name) in names.items()}
    if path.is_file():
        files = {"transformer": path, "tokenizer": path.with_name(names["tokenizer"][1])}
    for part, file in files.items():
        if not file.is_file():
            raise CheckpointError(f"{file} is missing; get it from huggingface.co/{names[part][0]}")
    return files


def _local_bundle(path: Path) -> dict[str, Path]:
    """Both parts are in one file."""
    if path.suffix != ".safetensors" or not path.is_file():
        raise CheckpointError(f"{path} is no bundle of weights: {_BUNDLE_HINT}")
    return {"transformer": path, "tokenizer": path}


def _official_names(spec: ModelSpec) -> dict[str, tuple[str, str]]:
    """Part -> (hub repository, file name)."""
    if spec.checkpoint is None:
        raise CheckpointError(f"{spec.name} has no official files to download")
    checkpoint = spec.checkpoint
    return {
        "transformer": (checkpoint.hub_repo, checkpoint.transformer_file),
        "tokenizer": (checkpoint.tokenizer_repo or checkpoint.hub_repo, checkpoint.tokenizer_file),
    }


def _read_official(spec: ModelSpec, files: Mapping[str, Path]) -> State:
    assert spec.checkpoint is not None
    nesting = {
        "transformer": spec.checkpoint.transformer_nesting,
        "tokenizer": spec.checkpoint.tokenizer_nesting,
    }
    return {part: read_tensors(path, nesting[part]) for part, path in files.items()}


def _read_bundle(path: Path) -> State:
    """Split "transformer." and "tokenizer."; bundles are stored in half precision to stay small."""
    state: State = {"transformer": {}, "tokenizer": {}}
    for key, tensor in read_tensors(path).items():
        part, _, name = key.partition(".")
        if part not in state:
            raise CheckpointError(f"{path} is no bundle of weights: {key} belongs to neither {' nor '.join(state)}")
        state[part][name] = tensor.float() if tensor.is_floating_point() else tensor
    return state


def _fill(module: nn.Module, tensors: dict[str, Tensor], *, source: str) -> None:
    adapt = getattr(module, "adapt_state", None)
    if adapt is not None:
        tensors = adapt(tensors)
    try:
        load_strict(module, tensors, source=source)
    except MisfitError as error:
        raise MisfitError(f"{error}. {_likeness(shapes_of(tensors))}") from error


def _likeness(file: Shapes) -> str:
    name, share = nearest(file, _known_shapes())
    if share == 0:
        return "It looks like no model known here"
    return f"It looks most like {name} ({share:.0%} of names and shapes agree)"


def _known_shapes() -> list[tuple[str, Shapes]]:
    return [known for name, spec in known_specs() for known in _shapes_of_model(name, spec)]


@cache  # building a hundred modules takes seconds, even without memory
def _shapes_of_model(name: str, spec: ModelSpec) -> list[tuple[str, Shapes]]:
    return [(f"the {part} of {name}", shapes_of(module.state_dict())) for part, module in meta_modules(spec).items()]
