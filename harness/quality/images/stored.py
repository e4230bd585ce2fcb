"""Checks that all files of samples pass, and the data beside their pixels: labels, seeds, provenance.

A file is data: nothing in it is executed, and every stated size is compared with the real one.

Shapes   N images, H W height and width
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from arvbench.errors import UserError, shown
from arvbench.harness.quality.images.source import Provenance

PROVENANCE_KEY = "arvbench"
"""Key of the provenance in .npz (uint8 bytes of JSON) and .safetensors (metadata)."""
MAX_PROVENANCE_BYTES = 2**20
FORMAT = 1
"""1: {"format", "provenance"}. Raise it when a field changes its meaning, and say so here."""

_RANKS = "labels are the sorted names of"
"""Note of earlier versions on the labels of named folders."""
_BYTES_HINT = (
    "quality is measured on uint8 images: save bytes by a named rule (truncate int(255 x), round int(255 x + 0.5), or "
    "127.5x+128 of x in [-1, 1])"
)


def check_images(where: str, dtype: str, shape: Sequence[int]) -> None:
    """Raise UserError, naming the likely mistake, unless this is a batch of uint8 RGB images, NHWC or NCHW."""
    sizes = " x ".join(map(str, shape))
    if dtype != "uint8":
        raise UserError(f"{where} is {dtype}; {_BYTES_HINT}")
    if len(shape) == 3 and shape[2] == 3:
        raise UserError(f"{where} is one image ({sizes}), not a batch: save N x H x W x 3")
    if len(shape) == 3:
        raise UserError(f"{where} is grayscale ({sizes}): repeat the channel to N x H x W x 3")
    if len(shape) != 4:
        raise UserError(f"{where} has {len(shape)} dimensions ({sizes}); a batch of images is N x H x W x 3")
    if shape[0] == 0:
        raise UserError(f"{where} holds no images ({sizes})")
    if 3 in (shape[1], shape[3]):
        if 0 in shape:
            raise UserError(f"{where} holds empty images ({sizes})")
        return
    for channels, kind in ((1, "grayscale: repeat the channel"), (4, "RGBA: blend the transparency away")):
        if channels in (shape[1], shape[3]):
            raise UserError(f"{where} ({sizes}) is {kind}; a batch of images is N x H x W x 3")
    raise UserError(f"{where} ({sizes}) has no three channels; a batch of images is N x H x W x 3")


def check_range(start: int, stop: int, count: int, name: str) -> None:
    """Raise IndexError for image numbers outside the set: a bug of the caller."""
    if not 0 <= start <= stop <= count:
        raise IndexError(f"images {start}..{stop - 1} of {name}, which has {count}")


def file_state(path: Path) -> str:
    """Return size and modification time of a file as text. Raises UserError for a file that does not exist."""
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    return f"{status.st_size} bytes, changed {status.st_mtime_ns}"


def check_unchanged(path: Path, state: str) -> None:
    """Raise UserError when a file has changed: one pass would mix two sets of images."""
    if file_state(path) != state:
        raise UserError(f"{path} has changed since it was opened: run again when it is finished")


def integers(values: Any, count: int, where: str) -> Tensor:
    """Return (N,) int64 of one integer per image, from an array, tensor or list; UserError for anything else."""
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError) as error:
        raise UserError(f"{where} must be {count} integers, one per image ({error})") from error
    check_integers(array.dtype, array.shape, count, where)
    if array.dtype.kind == "u" and array.size and array.max() > np.iinfo(np.int64).max:
        raise UserError(f"{where} holds {array.max()}, which does not fit into 64 bits")
    return torch.from_numpy(array.astype(np.int64))


def check_integers(dtype: np.dtype, shape: tuple[int, ...], count: int, where: str) -> None:
    """Raise UserError unless a header announces one integer per image."""
    if dtype.kind not in "iu" or shape != (count,):
        sizes = " x ".join(map(str, shape)) or "a single value"
        raise UserError(f"{where} must be {count} integers, one per image; it is {dtype} ({sizes})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """Facts about a set of images that stand beside its pixels."""

    provenance: Provenance
    class_names: tuple[str, ...] = ()
    """Names of the classes 0, 1 ...; empty when labels are numbers with a meaning of their own."""

    def labels(self, labels_N: Tensor | None, where: str) -> tuple[Tensor | None, str]:
        """Return the labels of the images, checked, and a note.

        Earlier versions wrote the ranks of named folders without the names: these ranks mean nothing elsewhere.
        """
        if labels_N is None:
            return None, ""
        if self.class_names and (int(labels_N.min()) < 0 or int(labels_N.max()) >= len(self.class_names)):
            raise UserError(f"{where}: labels are not those of its {len(self.class_names)} class names")
        if not self.class_names and _RANKS in self.provenance.note:
            return None, "labels are ranks of names that the file does not hold: they are not read"
        return labels_N, ""


def description_json(provenance: Provenance, class_names: Sequence[str] = ()) -> str:
    """Return the JSON text that `read_description` reads."""
    names = {"class_names": list(class_names)} if class_names else {}
    return json.dumps({"format": FORMAT, "provenance": asdict(provenance), **names}, sort_keys=True)


def read_description(text: str | bytes, where: str) -> Description:
    """Read the text of `description_json`. Raises UserError, naming `where`, for any other."""
    try:
        return parse_description(json.loads(text), where)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON ({error})") from error


def parse_description(content: Any, where: str) -> Description:
    """Return the description in parsed JSON. Raises UserError, naming `where`, when it holds none."""
    if not isinstance(content, dict) or not isinstance(content.get("provenance"), dict):
        raise UserError(f"{where} was not written by arvbench: it has no provenance")
    if content.get("format") != FORMAT:
        raise UserError(f"{where} has format {shown(content.get('format'))}; this version of arvbench reads {FORMAT}")
    stated: dict[Any, Any] = content["provenance"]
    known = {field.name for field in fields(Provenance)}
    if wrong := [key for key, value in stated.items() if key not in known or not isinstance(value, str)]:
        known_names = ", ".join(sorted(known))
        raise UserError(f"{where}: {shown(wrong[0])} is not a text field of a provenance; known: {known_names}")
    names = content.get("class_names", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len({*names}) < len(names):
        raise UserError(f"{where}: class_names are not a list of different names")
    return Description(provenance=Provenance(**stated), class_names=tuple(names))


def with_notes(provenance: Provenance, *notes: str) -> Provenance:
    """Append the notes of a reader to `provenance`."""
    return replace(provenance, note="; ".join(text for text in (provenance.note, *notes) if text))
