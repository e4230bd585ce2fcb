"""Build the sampler of a named model from a source of weights.

Sources  a folder with the official files; one official file, with the tokenizer's file beside it; a bundle of both
         parts in one .safetensors file, as `arvbench train` writes it; "hub"; "demo"; "random:SEED"
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
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
from arvbench.errors import ArvbenchError, CheckpointError, HostError, UserError, shown
from arvbench.kernels.backends import backend_named
from arvbench.paths import user_path

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
    weights_read: Callable[[], None] | None = None,
) -> Sampler:
    """Build the model `name` strictly from `weights` and return its sampler.

    `weights_read` is called between reading the weights and building the modules. Raises UnknownName, CheckpointError
    (a file that does not fit, with the model it most looks like), HostError (no such device) or UserError.
    """
    return build_sampler(
        MODELS[name], weights=str(weights), device=device, dtype=dtype, backend=backend, weights_read=weights_read
    )


def build_sampler(
    spec: ModelSpec,
    *,
    weights: str,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    backend: str = "reference",
    weights_read: Callable[[], None] | None = None,
) -> Sampler:
    """Build the sampler of a spec, which need not be in the table of models; `load_sampler` states the errors."""
    backend_named(backend)  # before gigabytes are read
    device = usable_device(device)
    modules = None if _random_seed(weights) is None else meta_modules(spec)
    state, info = _read(spec, weights, device, modules)
    if weights_read is not None:
        weights_read()
    adapted = spec.sampler.adapt_spec(spec, state["transformer"])
    if modules is None or adapted != spec:
        modules = meta_modules(adapted)
    return assemble(adapted, modules, (state, info), device=device, dtype=dtype, backend=backend)


def assemble(
    spec: ModelSpec,
    modules: Mapping[str, nn.Module],
    weights: tuple[State, WeightsInfo],
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    backend: str = "reference",
) -> Sampler:
    """Give `modules`, those of `meta_modules`, the tensors of `weights` strictly, and return the sampler.

    Raises MisfitError for tensors that do not fit.
    """
    state, info = weights
    for part, module in modules.items():
        adapt = getattr(module, "adapt_state", dict)
        tensors: dict[str, Tensor] = adapt(state[part])
        try:
            load_strict(module, tensors, source=f"{part} weights from {info.source}")
        except MisfitError as error:
            raise MisfitError(f"{error}. {_likeness(tensors)}") from error
    sampler: Sampler = spec.sampler(spec, modules, weights=info, backend=backend, device=device, dtype=dtype)
    return sampler


def meta_modules(spec: ModelSpec) -> dict[str, nn.Module]:
    """Build the modules of `spec` without memory: names, shapes and dtypes only.

    Raises HostError when a plug-in fails to build its own.
    """
    try:
        return on_meta(lambda: spec.sampler.build_modules(spec))
    except Exception as error:
        if spec.sampler.__module__.startswith("arvbench."):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise HostError(f"model {spec.name!r} cannot be used: building it failed ({reason})") from error


def usable_device(device: str | torch.device) -> torch.device:
    """Return the device. Raises UserError for another kind than cpu and cuda, HostError where this machine has none."""
    try:
        device = torch.device(device)
    except (RuntimeError, ValueError, TypeError, OverflowError) as error:
        raise UserError(f"no device {shown(str(device))}; known: cpu, cuda, cuda:N") from error
    if device.type not in ("cpu", "cuda") or (device.type == "cpu" and device.index):
        raise UserError(f"models do not run on {str(device)!r} here; known: cpu, cuda, cuda:N")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise HostError("CUDA was asked for, but torch finds no usable GPU here; use --device cpu, or see `doctor`")
        if device.index is not None and device.index >= torch.cuda.device_count():
            raise HostError(f"there is no {device}: this machine has {torch.cuda.device_count()} GPU(s)")
    return device


def bundle_name(spec: ModelSpec) -> str:
    """Return the name of the file that holds the trained weights of a demo model."""
    return f"{spec.name.removeprefix('demo/')}.safetensors"


def locate_weights(spec: ModelSpec, weights: str) -> dict[str, Path]:
    """Return the file of every part that `weights` stands for, without reading it.

    Empty for random weights, and for "hub", whose files are known once they are downloaded. Raises CheckpointError for
    a missing file or a model without such weights, UserError for a malformed `random:SEED`.
    """
    files = _locate_own(spec, weights)
    for other in spec.borrows:
        theirs = _locate_own(other.spec, other.weights or weights)
        files |= {f"{other.part} {part}": file for part, file in theirs.items()}
    return files


def weights_info(spec: ModelSpec, weights: str) -> WeightsInfo:
    """Return the identity of local weights, whose files are read for their digests; errors as `locate_weights`."""
    files = locate_weights(spec, weights)
    return WeightsInfo(source=weights, random=_random_seed(weights) is not None, sha256=_digests(files))


def _digests(files: Mapping[str, Path]) -> dict[str, str]:
    """File name -> digest, of every file once; with its part before the name where two files have one name."""
    paths = {path: part for part, path in reversed(list(files.items()))}
    names = [path.name for path in paths]
    named = {path: path.name if names.count(path.name) == 1 else f"{part} {path.name}" for path, part in paths.items()}
    return {named[path]: sha256_of(path) for path in dict.fromkeys(files.values())}


def _locate_own(spec: ModelSpec, weights: str) -> dict[str, Path]:
    """Return the files of transformer and tokenizer of one model; errors as `locate_weights`."""
    if _random_seed(weights) is not None:
        return {}
    if weights == "hub":
        _official_names(spec)
        return {}
    if weights == "demo":
        if not spec.demo:
            raise CheckpointError(f"{spec.name} has no demo weights; models that have: {', '.join(demo_models())}")
        return _bundle(DEMO_FOLDER / bundle_name(spec))
    path = user_path(weights)
    if not path.exists():
        raise CheckpointError(f"no weights at {path}: give a folder, a file, hub, demo or random:SEED")
    if spec.checkpoint is None:
        return _bundle(path)
    names = _official_names(spec)
    local = _local_names(names)
    folder = path.parents[len(Path(local["transformer"]).parts) - 1] if path.is_file() else _snapshot(path)
    files = {part: _present(folder / name) for part, name in local.items()}
    if path.is_file():
        files["transformer"] = path
    for part, file in files.items():
        if not file.is_file():
            shards = f" ({folder} holds shards: merge them into one file of that name)" if _has_shards(folder) else ""
            raise CheckpointError(f"{file} is missing; get it from huggingface.co/{names[part][0]}{shards}")
    return files


def _local_names(names: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """Part -> path in a folder with the files of all parts: in a folder named like its repository where names clash."""
    clash = len({name for _, name in names.values()}) < len(names)
    folders = {part: f"{repository.rpartition('/')[2]}/" if clash else "" for part, (repository, _) in names.items()}
    return {part: folders[part] + name for part, (_, name) in names.items()}


def _present(file: Path) -> Path:
    """Return `file`, or the only one beside it whose name differs in upper and lower case alone."""
    if file.is_file() or not file.parent.is_dir():
        return file
    alike = [other for other in file.parent.iterdir() if other.name.lower() == file.name.lower()]
    return alike[0] if len(alike) == 1 else file


def _snapshot(folder: Path) -> Path:
    """Return the current snapshot of a repository in the Hugging Face cache; any other folder as it is."""
    snapshots = folder / "snapshots"
    if not snapshots.is_dir():
        return folder
    main = folder / "refs" / "main"
    found = sorted(path for path in snapshots.iterdir() if path.is_dir())
    current = snapshots / main.read_text(errors="replace").strip() if main.is_file() else folder
    if current in found:
        return current
    if len(found) == 1:
        return found[0]
    raise CheckpointError(f"{folder} is a repository in the Hugging Face cache: give one of the folders in {snapshots}")


def _has_shards(folder: Path) -> bool:
    return any(folder.glob("*.index.json"))


def _bundle(path: Path) -> dict[str, Path]:
    if path.suffix.lower() != ".safetensors" or not path.is_file():
        hint = "this model takes a .safetensors file that `arvbench train` wrote"
        raise CheckpointError(f"{path} is not a bundle of weights: {hint}")
    return {"transformer": path, "tokenizer": path}


def _official_names(spec: ModelSpec) -> dict[str, tuple[str, str]]:
    """Part -> (hub repository, file name)."""
    checkpoint = spec.checkpoint
    if checkpoint is None:
        raise CheckpointError(f"{spec.name} has no official files to download")
    return {
        "transformer": (checkpoint.hub_repo, checkpoint.transformer_file),
        "tokenizer": (checkpoint.tokenizer_repo or checkpoint.hub_repo, checkpoint.tokenizer_file),
    }


def _random_seed(weights: str) -> int | None:
    """Return SEED of "random:SEED", None for other weights; UserError for "random" with a malformed seed."""
    if weights != "random" and not weights.startswith("random:"):
        return None
    match = re.fullmatch(r"random:(\d{1,18})", weights)
    if match is None:
        raise UserError(f"weights {shown(weights)}: random weights need a seed, such as random:0")
    return int(match[1])


def _read(
    spec: ModelSpec, weights: str, device: torch.device, modules: Mapping[str, nn.Module] | None
) -> tuple[State, WeightsInfo]:
    """Read or draw the tensors that `weights` stands for, with their identity; also those of borrowed parts.

    Raises UserError for a borrowed part whose model has another tokenizer.
    """
    state, info = _read_own(spec, weights, device, modules)
    digests = dict(info.sha256)
    for other in spec.borrows:
        theirs, about = _read_own(other.spec, other.weights or weights, device)
        ours = state["tokenizer"]
        same = ours.keys() == theirs["tokenizer"].keys()
        if not same or any(not torch.equal(tensor, theirs["tokenizer"][name]) for name, tensor in ours.items()):
            raise UserError(f"the weights of {spec.name} and {other.spec.name} have different tokenizers")
        state[other.part], digests = theirs["transformer"], {**digests, **about.sha256}
        info = replace(info, random=info.random or about.random, sha256=digests)
    return state, info


def _read_own(
    spec: ModelSpec, weights: str, device: torch.device, modules: Mapping[str, nn.Module] | None = None
) -> tuple[State, WeightsInfo]:
    """Read or draw the tensors of one model, without borrowed parts; drawn ones are those that `modules` need."""
    seed = _random_seed(weights)
    if seed is not None:
        borrowed = {other.part for other in spec.borrows}
        own = {part: module for part, module in (modules or meta_modules(spec)).items() if part not in borrowed}
        state = {part: random_tensors(module, seed, device) for part, module in own.items()}
        return state, WeightsInfo(source=weights, random=True)
    files = _download(spec) if weights == "hub" else _locate_own(spec, weights)
    if spec.checkpoint:
        state = {
            "transformer": read_tensors(files["transformer"], spec.checkpoint.transformer_nesting),
            "tokenizer": read_tensors(files["tokenizer"], spec.checkpoint.tokenizer_nesting),
        }
    else:
        state = _read_bundle(files["transformer"])
    return state, WeightsInfo(source=weights, random=False, sha256=_digests(files))


def _download(spec: ModelSpec) -> dict[str, Path]:
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


def _read_bundle(path: Path) -> State:
    """Split "transformer." and "tokenizer."; bundles are stored in half precision to stay small."""
    state: State = {"transformer": {}, "tokenizer": {}}
    for key, tensor in read_tensors(path).items():
        part, _, name = key.partition(".")
        if part not in state:
            raise CheckpointError(f"{path} is not a bundle of weights: {key} belongs to neither {' nor '.join(state)}")
        state[part][name] = tensor.float() if tensor.is_floating_point() else tensor
    return state


def known_specs() -> Iterator[tuple[str, ModelSpec]]:
    """Yield every model that can be imported; a broken plug-in costs its own models and no others."""
    for name in MODELS:
        with contextlib.suppress(ArvbenchError):
            yield name, MODELS[name]


def unusable_models() -> dict[str, str]:
    """Return the models of the table that cannot be imported, with the reasons."""
    reasons = {}
    for name in MODELS:
        try:
            _ = MODELS[name]
        except ArvbenchError as error:
            reasons[name] = str(error)
    return reasons


def demo_models() -> list[str]:
    """Names of the models whose trained weights are part of this package."""
    return [name for name, spec in known_specs() if spec.demo]


def _known_shapes() -> Iterator[tuple[str, Shapes]]:
    """Yield the shapes of every part of the models that can be built."""
    for name, spec in known_specs():
        with contextlib.suppress(HostError):
            yield from ((f"the {part} of {name}", shapes) for part, shapes in _shapes(spec).items())


def _likeness(tensors: Mapping[str, Tensor]) -> str:
    """Name the part of a known model whose names and shapes are most like those of a file."""
    name, share = nearest(shapes_of(tensors), _known_shapes())
    if share == 0:
        return "It looks like no known model"
    return f"It looks most like {name} ({share:.0%} of names and shapes agree)"


@cache  # building a hundred modules takes seconds, even without memory
def _shapes(spec: ModelSpec) -> dict[str, Shapes]:
    """Part -> names and shapes of its tensors."""
    return {part: shapes_of(module.state_dict()) for part, module in meta_modules(spec).items()}
