"""Samples as PNG or JPEG files in a folder and its subfolders.

Order    lexicographic by relative path with "/" between the parts, in code points: "10.png" comes before "2.png". The
         Inception score of adm-v1 depends on it, so a note warns when the numbers in the names would sort otherwise.
Labels   from samples.json, which `arvbench sample` writes; else from the names of subfolders (class_folders.py).
Pixels   8-bit RGB without transparency, all of one size. Others are refused, naming the file: how to convert them is
         the user's decision, and a silent conversion would change the numbers.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from arvbench.errors import UserError
from arvbench.harness.quality.images.class_folders import classes_of_folders
from arvbench.harness.quality.images.intact import check_intact
from arvbench.harness.quality.images.listing import SUFFIXES, PictureFile, list_folder
from arvbench.harness.quality.images.source import ImageSource, Provenance
from arvbench.harness.quality.images.stored import Description, check_range, integers, parse_description, with_notes
from arvbench.paths import printable

INDEX_NAME = "samples.json"
"""File about a folder of samples: {"format", "provenance", "files", "labels", "seeds"}."""
_THREADS = min(4, os.cpu_count() or 1)
"""Decoding releases the interpreter's lock; with more threads than this the disk is the limit."""
_PNG_HEADER = re.compile(rb"\x89PNG\r\n\x1a\n.{4}IHDR.{8}(?P<depth>.)", re.DOTALL)
_MODES = {
    **dict.fromkeys(("1", "L", "I", "F", "I;16", "I;16B"), "grayscale"),
    **dict.fromkeys(("LA", "RGBA", "PA", "La", "RGBa"), "transparency"),
    "P": "a palette",
    "CMYK": "ink colours",
}


class FolderSource(ImageSource):
    """Pictures of a folder. Opening reads the list of files and the first picture.

    Reading raises UserError, naming the file, for a picture that cannot be used.
    """

    def __init__(self, folder: Path, *, class_folders: bool = False) -> None:
        """Open `folder`; `class_folders`: the user says that its subfolders are classes."""
        self._folder, self.name = folder, folder.name or str(folder)
        listing = list_folder(folder)
        self._files, self.passed_over = listing.pictures, listing.passed_over
        if not self._files:
            passed_over = f"; {self.passed_over}" if self.passed_over else ""
            raise UserError(f"no images ({', '.join(SUFFIXES)}) in folder {printable(folder)}{passed_over}")
        self.count = len(self._files)
        self.files = [file.relative for file in self._files]
        first = read_image(self.paths[0])
        self.shape = (first.shape[1], first.shape[2])
        index = _read_index(folder / INDEX_NAME, self.files)
        label_note = ""
        if index is None:
            classes = classes_of_folders(self.files, stated=class_folders)
            self.labels_N, self.class_names, label_note = classes.labels_N, classes.names, classes.note
            stated = Provenance()
        else:
            self.labels_N, label_note = index.description.labels(index.labels_N, str(folder / INDEX_NAME))
            self.class_names, self.seeds_N = index.description.class_names, index.seeds_N
            stated = index.description.provenance
        self.provenance = with_notes(stated, label_note, self.passed_over)

    @property
    def paths(self) -> Sequence[Path]:
        """Return the files in the order of the images."""
        return [self._folder / file.relative for file in self._files]

    def read(self, start: int, stop: int) -> Tensor:
        check_range(start, stop, self.count, self.name)
        files = self._files[start:stop]
        if not files:
            return torch.empty(0, 3, *self.shape, dtype=torch.uint8)
        with ThreadPoolExecutor(_THREADS) as pool:
            return torch.stack(list(pool.map(self._read, files)))

    @property
    def key(self) -> str:
        listing = "\n".join(f"{file.relative}\0{file.size}\0{file.mtime_ns}" for file in self._files)
        digest = hashlib.sha256(listing.encode(errors="surrogateescape")).hexdigest()
        return f"folder {self._folder.resolve()} files {digest}"

    def _read(self, file: PictureFile) -> Tensor:
        path = self._folder / file.relative
        file.check_unchanged(path)
        image_3HW = read_image(path)
        if image_3HW.shape[1:] != self.shape:
            raise UserError(
                f"images of different sizes: {self.paths[0]} is {self.shape[1]} x {self.shape[0]}, {path} is "
                f"{image_3HW.shape[2]} x {image_3HW.shape[1]}; resize them first"
            )
        return image_3HW


def read_image(path: Path) -> Tensor:
    """Return one picture file as uint8 (3, H, W). Raises UserError, naming the file, for one that cannot be used."""
    expected = SUFFIXES.get(path.suffix.lower())
    try:
        content = path.read_bytes()
        header = _PNG_HEADER.match(content)
        if header is not None and header["depth"] == b"\x10":
            raise UserError(f"{path} has 16 bits per channel: save it with 8 bits by a rule of your choice")
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            _check_content(path, image, expected)
            image.load()
            if "transparency" in image.info:  # known only after loading: in a PNG it may follow the pixels
                raise _needs_conversion(path, "transparency")
            pixels_HW3 = np.array(image)
            check_intact(content, "PNG" if image.format == "PNG" else "JPEG", pixels_HW3)
    except (UserError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise UserError(f"{path} is not a readable image: its content is neither PNG nor JPEG") from error
    except Exception as error:  # Pillow's readers of chunks and segments raise whatever they trip over
        raise UserError(f"{path} is not a readable image: {error}") from error
    return torch.from_numpy(pixels_HW3).permute(2, 0, 1).contiguous()


def _check_content(path: Path, image: Image.Image, expected: str | None) -> None:
    """Raise UserError for a picture that needs a decision of the user; `expected` is the format of its ending."""
    content = "JPEG" if image.format == "MPO" else image.format
    if expected is not None and content != expected:
        raise UserError(f"{path} is a {content} by its content: give it the ending of that format")
    if getattr(image, "n_frames", 1) > 1:
        raise UserError(f"{path} holds {image.n_frames} pictures: save the one that is meant")  # type: ignore[attr-defined]
    if image.mode != "RGB":
        raise _needs_conversion(path, _MODES.get(image.mode, "other colours than RGB"), image.mode)


def _needs_conversion(path: Path, reason: str, mode: str = "RGB") -> UserError:
    return UserError(f"{path} has {reason} (colour mode {mode}): convert it to 8-bit RGB without transparency")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Index:
    description: Description
    labels_N: Tensor | None
    seeds_N: Tensor | None


def _read_index(path: Path, names: Sequence[str]) -> _Index | None:
    """Read samples.json; return None without one. Raises UserError unless it lists exactly these files."""
    if not path.exists():
        return None
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    description = parse_description(content, str(path))
    listed = content.get("files")
    if listed != list(names):
        other = f"lists {len(listed)} images" if isinstance(listed, list) else "lists no images"
        raise UserError(
            f"{path} {other}, the folder holds {len(names)}, and their names differ: put the files back, or remove "
            f"{path.name} to evaluate the folder as it is"
        )
    per_image = {
        key: None if content.get(key) is None else integers(content[key], len(names), f"{path}: {key}")
        for key in ("labels", "seeds")
    }
    return _Index(description=description, labels_N=per_image["labels"], seeds_N=per_image["seeds"])
