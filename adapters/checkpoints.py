"""Read weights: tensors alone, strictly, with errors that name the remedy.

Pickles are opened with `weights_only=True`: a file that needs more is refused, and none of its code runs. Names and
shapes are those of the official files (tests/golden/manifests).
"""

from __future__ import annotations

import argparse
import hashlib
import pickle
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from arvbench.errors import CheckpointError


class MisfitError(CheckpointError):
    """A readable file whose names or shapes are not those of the model."""


Shapes = Mapping[str, tuple[int, ...]]

_LISTED = 5
"""Keys shown of a long list."""


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_tensors(path: Path, nesting: Sequence[Sequence[str]] = ()) -> dict[str, Tensor]:
    """Return the flat state dict in `path` (.safetensors, or a torch pickle of tensors), on the CPU.

    `nesting` lists key paths under which a training checkpoint may keep it. Raises CheckpointError for a file that is
    missing, damaged, unsafe, or holds no state dict.
    """
    if not path.is_file():
        raise CheckpointError(f"no weights file at {path}")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    for keys in ((), *nesting):
        inner = _descend(content, keys)
        if inner:
            return inner
    found = ", ".join(sorted(map(str, content))[:_LISTED]) if isinstance(content, Mapping) else type(content).__name__
    raise CheckpointError(f"{path} holds no state dict where this model keeps it (found: {found})")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file (truncated?): {error}") from error


def _read_pickle(path: Path) -> object:
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"
    try:
        # Training checkpoints keep their command line beside the weights, in a class that only holds values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content: object = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
            return content
    except pickle.UnpicklingError as error:
        # torch's message suggests disabling the protection; show only what it rejected.
        rejected = re.search(r"GLOBAL \S+|Unsupported \w+ \S+", str(error))
        raise CheckpointError(
            f"{path} refused: it is not a plain file of tensors, and opening it could run code"
            + (f" ({rejected[0].rstrip('.')})" if rejected else "")
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is damaged or truncated: {first_line}") from error


def _descend(content: object, keys: Sequence[str]) -> dict[str, Tensor] | None:
    """Return the state dict below `keys`, or None where there is none."""
    for key in keys:
        if not isinstance(content, Mapping) or key not in content:
            return None
        content = content[key]
    if not isinstance(content, Mapping) or not content:
        return None
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()):
        return None
    return dict(content)


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
    differing ones, CheckpointError that names a parameter with a NaN or an infinity.
    """
    needed = module.state_dict()
    shared = [name for name in needed if name in tensors]
    problems = {
        "missing": [name for name in needed if name not in tensors],
        "unexpected": [name for name in tensors if name not in needed],
        "of another shape": [
            f"{name} {tuple(tensors[name].shape)} instead of {tuple(needed[name].shape)}"
            for name in shared
            if tensors[name].shape != needed[name].shape
        ],
        "of another kind": [
            f"{name} {tensors[name].dtype} instead of {needed[name].dtype}"
            for name in shared
            if tensors[name].is_floating_point() != needed[name].is_floating_point()
        ],
    }
    if any(problems.values()):
        listed = "; ".join(_listing(problem, names) for problem, names in problems.items() if names)
        raise MisfitError(f"{source} does not fit: {listed}")
    for name, _ in module.named_parameters():
        if not torch.isfinite(tensors[name]).all():
            raise CheckpointError(f"{source} has NaN or infinity in {name}")
    module.load_state_dict(dict(tensors), strict=True, assign=True)


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
