"""Key manifests of official files: names, shapes and dtypes of their tensors, without the values."""

from __future__ import annotations

import json
from pathlib import Path

from torch import nn

Contents = dict[str, tuple[tuple[int, ...], str]]
"""Name of a tensor -> its shape and dtype."""
FOLDER = Path(__file__).parent.parent / "golden" / "manifests"


def manifest(name: str) -> Contents:
    """Read the manifest `name`."""
    entries = json.loads((FOLDER / f"{name}.json").read_text())
    return {key: (tuple(shape), dtype) for key, (shape, dtype) in entries.items()}


def contents(module: nn.Module) -> Contents:
    """Return the state dict of `module` in the form of a manifest."""
    return {k: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for k, t in module.state_dict().items()}


def parameters(module: nn.Module) -> int:
    """Count the parameters of `module`, buffers excluded."""
    return sum(parameter.numel() for parameter in module.parameters())
