"""State dicts: found in a file, freed of wrappers, and given to a module that they must fit exactly.

Names and shapes are those of the official files (tests/golden/manifests). Files are read by `tensor_files`, as tensors
and nothing more.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from arvbench.adapters.tensor_files import read_content
from arvbench.errors import CheckpointError


class MisfitError(CheckpointError):
    """A readable file whose names or shapes are not those of the model."""


Shapes = Mapping[str, tuple[int, ...]]

_LISTED = 5
"""Names shown of a long list."""
_DTYPES = frozenset(
    {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128, torch.bool}
    | {torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8}
)
"""Types that torch computes with on every device."""
_OUTER_WRAPPERS = frozenset({"module", "_forward_module", "model", "ema_model", "ema", "net", "network"})
"""First parts that DDP, Fabric, Lightning modules and copies for averaging put before every name."""
_INNER_WRAPPERS = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Parts that torch.compile, FSDP and activation checkpoints put before the names of a module at any depth."""


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_tensors(path: Path, nesting: Sequence[Sequence[str]] = ()) -> dict[str, Tensor]:
    """Return the state dict in `path` (.safetensors, or a file of `torch.save`) with its tensors on the CPU.

    A training checkpoint may keep the state dict deeper: at a key path in `nesting`, tried in order, or anywhere else
    when it holds only one. Prefixes that wrappers of modules (DDP, FSDP, torch.compile) put before every name are
    removed. Raises CheckpointError for a file that is missing, damaged, unsafe or of another kind, one without a state
    dict or with several, and one with a tensor that has no plain values.
    """
    content = read_content(path)
    for keys in ((), *nesting):
        if found := _state_dict(_descend(content, keys)):
            return _checked(found, path)
    nested = dict(_state_dicts(content))
    if len(nested) == 1:
        return _checked(next(iter(nested.values())), path)
    if nested:
        key = next(iter(nested)).replace(".", '"]["')
        raise CheckpointError(
            f"{path} holds several state dicts ({', '.join(sorted(nested)[:_LISTED])}): save the one you mean to a "
            f'file of its own, as in torch.save(torch.load(FILE)["{key}"], NEW)'
        )
    raise CheckpointError(f"{path} holds no state dict where this model keeps it (found: {_contents(content)})")


def _descend(content: object, keys: Sequence[str]) -> object:
    for key in keys:
        content = content.get(key) if isinstance(content, Mapping) else None
    return content


def _state_dict(content: object) -> Mapping[str, Tensor] | None:
    """Return `content` when it is a mapping of names to tensors that is not empty."""
    if not isinstance(content, Mapping) or not content:
        return None
    return content if all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()) else None


def _state_dicts(content: object, path: str = "", depth: int = 3) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """Yield (dotted path, state dict) for those below `content`; an optimizer's, which is keyed by number, is none."""
    if not isinstance(content, Mapping) or depth == 0:
        return
    for key, value in content.items():
        if not isinstance(key, str):
            continue
        if found := _state_dict(value):
            yield f"{path}{key}", found
        else:
            yield from _state_dicts(value, f"{path}{key}.", depth - 1)


def _contents(content: object) -> str:
    """Describe what a file holds instead of a state dict."""
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    others = sorted(str(key)[:60] for key, value in content.items() if not isinstance(value, Tensor))
    tensors = len(content) - len(others)
    shown = ", ".join(others[:_LISTED]) or "nothing"
    return f"{tensors} tensors and beside them {shown}" if tensors else shown


def _checked(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return `tensors` under the names inside all wrappers. Raises CheckpointError for one without plain values."""
    for name, tensor in tensors.items():
        if fault := _oddity(tensor):
            raise CheckpointError(f"{path}: {name} is {fault}; weights are plain tensors: save it as float32")
    names = _unwrapped(list(tensors))
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise CheckpointError(f"{path} has {twice} twice, with and without the prefix of a wrapper: save one of them")
    return dict(zip(names, tensors.values(), strict=True))


def _oddity(tensor: Tensor) -> str:
    """Say in which way a tensor has no plain values; "" for one that has."""
    if type(tensor) not in (Tensor, nn.Parameter):
        return f"a {type(tensor).__name__}"
    if tensor.is_nested:
        return "a nested tensor"
    if tensor.is_quantized:
        return f"quantized ({tensor.dtype})"
    if tensor.is_meta:
        return "on the meta device, without values"
    if tensor.layout != torch.strided:
        return f"a sparse tensor ({tensor.layout})"
    return "" if tensor.dtype in _DTYPES else f"a tensor of {tensor.dtype}"


def _unwrapped(names: list[str]) -> list[str]:
    names = [_INNER_WRAPPERS.sub("", name) for name in names]
    while (prefix := names[0].partition(".")[0]) in _OUTER_WRAPPERS and all(n.startswith(f"{prefix}.") for n in names):
        names = [name.removeprefix(f"{prefix}.") for name in names]
    return names


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Name of every tensor -> its shape."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def nearest(file: Shapes, known: Iterable[tuple[str, Shapes]]) -> tuple[str, float]:
    """Return the known model most like the file, and the share 0..1 of (name, shape) pairs that both have."""

    def similarity(model: Shapes) -> float:
        ours, theirs = set(file.items()), set(model.items())
        return len(ours & theirs) / max(1, len(ours | theirs))

    return max(((name, similarity(shapes)) for name, shapes in known), key=lambda pair: pair[1])


def load_strict(module: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Give `module`, which may be on the meta device, the tensors themselves: no copy is made.

    Every name, shape and kind of number must match. Raises MisfitError that lists the missing, the unexpected and the
    differing ones, CheckpointError that names a tensor with a value that its module cannot use.
    """
    needed = module.state_dict()
    shared = [name for name in needed if name in tensors]
    problems = {
        "missing": [name for name in needed if name not in tensors],
        "unexpected": [name for name in tensors if name not in needed],
        "of another shape": [
            f"{name} {tuple(tensors[name].shape)} instead of {tuple(needed[name].shape)}"
            for name in shared
            if not tensors[name].is_nested and tensors[name].shape != needed[name].shape
        ],
        "of another kind": [
            f"{name} {_oddity(tensors[name]) or tensors[name].dtype} instead of {needed[name].dtype}"
            for name in shared
            if _oddity(tensors[name]) or _number_kind(tensors[name]) != _number_kind(needed[name])
        ],
    }
    if any(problems.values()):
        listed = "; ".join(_listing(problem, names) for problem, names in problems.items() if names)
        raise MisfitError(f"{source} does not fit: {listed}")
    _check_values(module, tensors, source)
    # Integers index tables, which take int64 or int32.
    fitting = {name: t if t.is_floating_point() else t.to(needed[name].dtype) for name, t in tensors.items()}
    module.load_state_dict(fitting, strict=True, assign=True)


def _number_kind(tensor: Tensor) -> str:
    if tensor.dtype == torch.bool:
        return "bool"
    return "complex" if tensor.is_complex() else "float" if tensor.is_floating_point() else "integer"


def _check_values(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Raise CheckpointError for a weight that is not finite, or an index outside the module's own range."""
    parameters = dict(module.named_parameters())
    constants: dict[str, Tensor] = getattr(module, "constant_buffers", dict)()
    for name, tensor in tensors.items():
        if not tensor.numel():
            continue
        if tensor.is_floating_point():
            # In one pass, a twentieth of the time of a tensor of truths; NaN is both smallest and largest then.
            low, high = (float(value) for value in tensor.aminmax())
            # Masks, which are buffers, hold -inf.
            if not (high < torch.inf and (low > -torch.inf or name not in parameters)):
                raise CheckpointError(f"{source} has NaN or infinity in {name}")
        elif name in constants:
            least, most = int(tensor.min()), int(tensor.max())
            if least < 0 or most > int(constants[name].max()):
                raise CheckpointError(f"{source} has {most if least >= 0 else least} in {name}, which is out of range")


def _listing(problem: str, names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{len(names)} {problem} ({', '.join(names[:_LISTED])}{more})"


def random_tensors(module: nn.Module, seed: int, device: torch.device) -> dict[str, Tensor]:
    """Draw seeded fp32 weights for `module`, which may be on the meta device, that keep activations of order one.

    They serve to measure speed and memory, which do not depend on the values. Every tensor has a random stream of its
    own, so its values do not depend on the order of the parameters.
    """
    constants: dict[str, Tensor] = getattr(module, "constant_buffers", dict)()
    drawn: dict[str, Tensor] = {}
    for name, parameter in module.state_dict().items():
        if name in constants:
            drawn[name] = constants[name].to(device)
            continue
        digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
        generator = torch.Generator(device=device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        fresh = torch.empty(parameter.shape, device=device)
        if parameter.ndim >= 2 and not name.endswith("scale_mul_1H11"):
            fan_in = parameter[0].numel() if parameter.ndim != 3 else parameter.shape[-1]
            bound = (3 / fan_in) ** 0.5
            drawn[name] = fresh.uniform_(-bound, bound, generator=generator)
        elif name.endswith("scale_mul_1H11"):
            drawn[name] = fresh.fill_(4.0).log_()
        else:
            drawn[name] = fresh.fill_(1.0 if name.endswith("weight") else 0.0)
    return drawn
