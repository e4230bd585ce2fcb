"""Reading weights: only tensors, strictly, with errors that say what to do.

Pickles are opened with `weights_only=True`: a file that needs more is refused, and nothing in it runs. Names and
shapes are those of the official files (golden manifests).
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
    try:
        # Training checkpoints keep their command line beside the weights: a class that only holds values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except pickle.UnpicklingError as error:
        # torch's own text advises to switch the protection off; only what it stumbled over is of use.
        found = re.search(r"GLOBAL \S+|Unsupported \w+ \S+", str(error))
        raise CheckpointError(
            f"{path} refused: it is not a plain file of tensors, and opening it could run code"
            + (f" ({found[0].rstrip('.')})" if found else "")
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is damaged or truncated: {first_line}") from error


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _descend(content: object, keys: Sequence[str]) -> dict[str, Tensor] | None:
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
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def similarity(file: Shapes, model: Shapes) -> float:
    """Share of (name, shape) pairs that two sets have in common, 0..1."""
    a, b = set(file.items()), set(model.items())
    return len(a & b) / len(a | b) if a | b else 0.0


def nearest(file: Shapes, known: Iterable[tuple[str, Shapes]]) -> tuple[str, float]:
    """Name of the known model that the file's names and shapes look most like, and how much (0..1)."""
    return max(((name, similarity(file, shapes)) for name, shapes in known), key=lambda pair: pair[1])


def load_strict(module: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Give `module` the tensors themselves (no copy). Every name, shape and kind of number must match.

    `module` may be on the meta device. Raises MisfitError that lists what is missing, unexpected or of another shape,
    and CheckpointError that names a parameter which holds a NaN or an infinity.
    """
    wanted = module.state_dict()
    problems = [
        *_listing("missing", [k for k in wanted if k not in tensors]),
        *_listing("unexpected", [k for k in tensors if k not in wanted]),
        *_listing(
            "of another shape",
            [
                f"{k} {tuple(tensors[k].shape)} instead of {tuple(wanted[k].shape)}"
                for k in wanted
                if k in tensors and tensors[k].shape != wanted[k].shape
            ],
        ),
        *_listing(
            "of another kind",
            [
                f"{k} {tensors[k].dtype} instead of {wanted[k].dtype}"
                for k in wanted
                if k in tensors and tensors[k].is_floating_point() != wanted[k].is_floating_point()
            ],
        ),
    ]
    if problems:
        raise MisfitError(f"{source} does not fit: {'; '.join(problems)}")
    parameters = {name for name, _ in module.named_parameters()}
    for name in parameters:
        if not torch.isfinite(tensors[name]).all():
            raise CheckpointError(f"{source} has NaN or infinity in {name}")
    module.load_state_dict(dict(tensors), strict=True, assign=True)


def _listing(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return [f"{len(names)} {what} ({', '.join(names[:_LISTED])}{more})"]


def random_tensors(module: nn.Module, seed: int, device: torch.device) -> dict[str, Tensor]:
    """Seeded weights for `module` (which may be on the meta device) that keep activations of order one.

    Good for speed and memory, which do not depend on the values. Every tensor has a stream of its own, so that its
    values do not depend on the order of the parameters. fp32.
    """
    constants: dict[str, Tensor] = getattr(module, "constant_buffers", dict)()
    out: dict[str, Tensor] = {}
    for name, parameter in module.state_dict().items():
        if name in constants:
            out[name] = constants[name].to(device)
            continue
        digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
        generator = torch.Generator(device=device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        fresh = torch.empty(parameter.shape, device=device)
        if parameter.ndim >= 2 and not name.endswith("scale_mul_1H11"):
            fan_in = parameter[0].numel() if parameter.ndim != 3 else parameter.shape[-1]
            bound = (3 / fan_in) ** 0.5
            out[name] = fresh.uniform_(-bound, bound, generator=generator)
        elif name.endswith("scale_mul_1H11"):
            out[name] = fresh.fill_(4.0).log_()
        else:
            out[name] = fresh.fill_(1.0 if name.endswith("weight") else 0.0)
    return out
