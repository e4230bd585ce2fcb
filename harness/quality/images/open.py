"""From a path to a source of images."""

from __future__ import annotations

import difflib
from pathlib import Path

from arvbench.errors import UserError
from arvbench.harness.quality.images.resize import ResizedSource, parse_resize
from arvbench.harness.quality.images.source import ImageSource

ACCEPTED = "an .npz (arr_0 uint8 N x H x W x 3), a folder of PNG or JPEG, or a .safetensors (images uint8)"

_MOST_NAMES = 2000
"""Names that a misspelt one is compared with."""


def open_images(path: Path | str, *, resize: str | None = None) -> ImageSource:
    """Return the images at `path`, resized first when `resize` is named ("bicubic:256", "pil-bicubic:256").

    Raises UserError for a path that is not there (near names are listed) or holds no images that can be evaluated.
    """
    chosen = parse_resize(resize)
    source = _open(Path(path).expanduser())
    return source if chosen is None else ResizedSource(source, chosen)


def _open(path: Path) -> ImageSource:
    # Each reader with its libraries only when it is needed.
    if path.is_dir():
        from arvbench.harness.quality.images.folder import FolderSource

        return FolderSource(path)
    if not path.exists():
        raise UserError(f"there is nothing at {path}{_near(path)}; samples are {ACCEPTED}")
    if path.suffix.lower() == ".npz":
        from arvbench.harness.quality.images.npz import NpzSource

        return NpzSource(path)
    if path.suffix.lower() == ".safetensors":
        from arvbench.harness.quality.images.tensors import SafetensorsSource

        return SafetensorsSource(path)
    raise UserError(f"{path} is not a file of samples that can be read; samples are {ACCEPTED}")


def _near(path: Path) -> str:
    """Names beside `path` that may have been meant."""
    if not path.parent.is_dir():
        return f" (there is no folder {path.parent} either)"
    try:
        names = sorted(entry.name for entry in path.parent.iterdir())[:_MOST_NAMES]
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.6)
    return f" (did you mean {' or '.join(near)}?)" if near else ""
