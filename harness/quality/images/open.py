"""The table of sample formats, and the function that opens the images at a path."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path

from arvbench.errors import UserError
from arvbench.harness.quality.images.folder import FolderSource
from arvbench.harness.quality.images.resize import ResizedSource, parse_resize
from arvbench.harness.quality.images.source import FileImages, ImageSource
from arvbench.paths import regular_file, user_path
from arvbench.registry import Registry

_FOLDER = "folder"
_FORMATS = {
    # ending: (description, source)
    ".npz": ("an .npz (arr_0 uint8 N x H x W x 3)", "arvbench.harness.quality.images.npz:NpzSource"),
    _FOLDER: ("a folder of PNG or JPEG", "arvbench.harness.quality.images.folder:FolderSource"),
    ".safetensors": ("a .safetensors (images uint8)", "arvbench.harness.quality.images.tensors:SafetensorsSource"),
}
FORMATS: Registry[Callable[[Path], ImageSource]] = Registry(
    "format of samples", {ending: source for ending, (_, source) in _FORMATS.items()}
)
"""Ending of a file's name, in lower case, or "folder" -> function that opens it."""
_MOST_NAMES = 2000
"""Names of a folder that a misspelt one is compared with."""


def open_images(path: Path | str, *, resize: str | None = None, class_folders: bool = False) -> ImageSource:
    """Open the images at `path`, resized when `resize` names a rule ("bicubic:256", "pil-bicubic:256").

    `class_folders`: the user says that the subfolders of a folder are classes.

    Raises UserError for a path that does not exist (near names are listed) or holds no images that can be evaluated.
    """
    rule = parse_resize(resize)
    path = user_path(path)
    ending = _FOLDER if path.is_dir() else path.suffix.lower()
    *first, last = (description for description, _ in _FORMATS.values())
    accepted = f"samples are {', '.join(first)}, or {last}"
    if not path.exists():
        raise UserError(f"there is nothing at {path}{_near(path)}; {accepted}")
    if ending not in FORMATS:
        raise UserError(f"{path} is not a file of samples that can be read; {accepted}")
    if ending != _FOLDER:
        regular_file(path)
        if class_folders:
            raise UserError(f"{path} is not a folder, so it has no subfolders that are classes")
    source: ImageSource = FolderSource(path, class_folders=True) if class_folders else FORMATS[ending](path)
    if rule is not None:
        source = ResizedSource(source, rule)
    source.address = FileImages(path=path, resize=resize)
    return source


def _near(path: Path) -> str:
    """Name files beside `path` with similar names."""
    if not path.parent.is_dir():
        return f" (there is no folder {path.parent} either)"
    try:
        names = sorted(entry.name for entry in path.parent.iterdir())[:_MOST_NAMES]
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.6)
    return f" (did you mean {' or '.join(near)}?)" if near else ""
