"""Writers of samples, to files and folders that this package, NumPy, safetensors and the TensorFlow evaluator read.

Images go from the source to the disk a piece at a time, never all in memory. A target is replaced when the new one is
complete (`files.claimed`); the next run removes the partial file of a killed one. Equal samples make equal files.

.npz          stored, not compressed: arr_0 uint8 (N, H, W, 3), labels, seeds int64 (N,), arvbench (JSON as uint8)
folder        000000.png, 000001.png, ... and samples.json; enough digits for text order to be numeric order
.safetensors  images uint8 (N, 3, H, W), labels, seeds int64 (N,), metadata arvbench (JSON)

Shapes   N images, n images in a piece
"""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.lib import format as npy
from PIL import Image
from torch import Tensor

from arvbench.disk import cannot_write
from arvbench.errors import HostError, UserError
from arvbench.files import claimed
from arvbench.harness.quality.identity import digest_of_images, image_digests
from arvbench.harness.quality.images.folder import INDEX_NAME
from arvbench.harness.quality.images.source import ImageSource
from arvbench.harness.quality.images.stored import PROVENANCE_KEY, description_json

Progress = Callable[[int], None]
"""Receives the number of written images."""
_PIECE = 256
FEWEST_DIGITS = 6
"""Digits in the names of PNG files, unless there are more images."""
_PNG_LEVEL = 1
"""Compression level: files are a third larger than with the default, and written several times as fast."""
SUFFIXES = (".npz", ".safetensors")


def write_images(path: Path, source: ImageSource, *, replace: bool = False, progress: Progress | None = None) -> str:
    """Write `source` in the format that the ending of `path` names (none: a folder); return its `images_sha256`.

    Raises UserError as `check_target` does, HostError when the disk is full or fails. Older samples at `path` stay
    until the new ones are complete.
    """
    check_target(path, replace=replace)
    writers = {".npz": write_npz, ".safetensors": write_safetensors}
    return writers.get(path.suffix.lower(), write_folder)(path, source, replace=replace, progress=progress)


def check_target(path: Path, *, replace: bool = False) -> None:
    """Raise UserError for a path that cannot be written, has an ending of another format, or already exists.

    With `replace`, samples may be replaced; a folder only when it is empty or was written by this module.
    """
    if path.suffix.lower() not in SUFFIXES and path.suffix and not path.is_dir():
        raise UserError(f"{path}: samples are written as {' or '.join(SUFFIXES)}, or into a folder (no ending)")
    if path.suffix.lower() in SUFFIXES and path.is_dir():
        raise UserError(f"{path} is a folder; give a file's name, or a folder's without {path.suffix}")
    if path.is_dir():
        ours = (path / INDEX_NAME).is_file()
        if any(path.iterdir()) and not (ours and replace):
            hint = "give --force to replace them" if ours else "it was not written by arvbench: choose another"
            raise UserError(f"folder {path} is not empty; {hint}")
    elif path.exists() and not (replace and path.suffix and path.is_file()):
        raise UserError(f"{path} already exists; choose another name" + (", or --force" if path.suffix else ""))
    writable_folder(path)


def writable_folder(path: Path) -> None:
    """Raise UserError when no file can be written at `path`; its folder need not exist."""
    above = next((parent for parent in path.parents if parent.exists()), Path("/"))
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise UserError(f"cannot write {path}: {above} is not a writable folder")


def write_npz(path: Path, source: ImageSource, *, replace: bool = True, progress: Progress | None = None) -> str:
    """Write an .npz, replacing an older one only with `replace`; return `images_sha256`."""
    height, width = source.shape
    provenance = np.frombuffer(description_json(source.provenance, source.class_names).encode(), dtype=np.uint8)
    arrays = {name: values.numpy() for name, values in _labels_and_seeds(source).items()}
    arrays[PROVENANCE_KEY] = provenance
    with (
        _claimed(path, source, replace) as part,
        zipfile.ZipFile(part, "w", zipfile.ZIP_STORED, allowZip64=True) as archive,
    ):
        with _member(archive, "arr_0") as member:
            shape = (source.count, height, width, 3)
            npy.write_array_header_1_0(member, {"descr": "|u1", "fortran_order": False, "shape": shape})
            digest = _write_pieces(
                source, lambda images: member.write(images.permute(0, 2, 3, 1).contiguous().numpy().data), progress
            )
        for name, array in arrays.items():
            with _member(archive, name) as member:
                npy.write_array(member, array, version=(1, 0), allow_pickle=False)
    return digest


def write_safetensors(
    path: Path, source: ImageSource, *, replace: bool = True, progress: Progress | None = None
) -> str:
    """Write a .safetensors, replacing an older one only with `replace`; return `images_sha256`."""
    integers = _labels_and_seeds(source)
    header: dict[str, object] = {
        "__metadata__": {PROVENANCE_KEY: description_json(source.provenance, source.class_names)}
    }
    end = 0
    # Integers come first, so that they stay aligned to eight bytes for any size of images.
    for name, values in integers.items():
        header[name] = {"dtype": "I64", "shape": [source.count], "data_offsets": [end, end + values.nbytes]}
        end += values.nbytes
    header["images"] = {
        "dtype": "U8",
        "shape": [source.count, 3, *source.shape],
        "data_offsets": [end, end + _image_bytes(source)],
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with _claimed(path, source, replace) as part, part.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for values in integers.values():
            file.write(values.numpy().astype("<i8").tobytes())
        return _write_pieces(source, lambda images: file.write(images.contiguous().numpy().data), progress)


def write_folder(
    path: Path,
    source: ImageSource,
    *,
    replace: bool = True,
    progress: Progress | None = None,
    fewest_digits: int = FEWEST_DIGITS,
) -> str:
    """Write PNG files and samples.json, replacing an older folder only with `replace`; return `images_sha256`."""
    digits = max(fewest_digits, len(str(source.count - 1)))
    names = [f"{number:0{digits}d}.png" for number in range(source.count)]
    remaining = iter(names)

    def save(images_n3HW: Tensor) -> None:
        for image_HW3 in images_n3HW.permute(0, 2, 3, 1).contiguous().numpy():
            encoded = io.BytesIO()  # Pillow's own writing has an error without a number for a full disk
            Image.fromarray(image_HW3).save(encoded, format="PNG", compress_level=_PNG_LEVEL)
            (part / next(remaining)).write_bytes(encoded.getbuffer())

    with _claimed(path, source, replace) as part:
        digest = _write_pieces(source, save, progress)
        index = {
            **json.loads(description_json(source.provenance, source.class_names)),
            "files": names,
            **{name: values.tolist() for name, values in _labels_and_seeds(source).items()},
        }
        (part / INDEX_NAME).write_text(json.dumps(index), encoding="utf-8")
    return digest


def _write_pieces(source: ImageSource, write: Callable[[Tensor], object], progress: Progress | None) -> str:
    """Pass all images (n, 3, H, W) to `write`, in order; return their digest."""
    digests = []
    for start in range(0, source.count, _PIECE):
        stop = min(source.count, start + _PIECE)
        images_n3HW = source.read(start, stop)
        digests.append(image_digests(images_n3HW))
        write(images_n3HW)
        if progress is not None:
            progress(stop)
    return digest_of_images(torch.cat(digests), source.shape)


def _labels_and_seeds(source: ImageSource) -> dict[str, Tensor]:
    integers = {"labels": source.labels_N, "seeds": source.seeds_N}
    return {name: values for name, values in integers.items() if values is not None}


def _image_bytes(source: ImageSource) -> int:
    return source.count * 3 * source.shape[0] * source.shape[1]


def _member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    # A ZipInfo made by name has a fixed date. The header must announce a size field for more than 4 GiB in advance.
    return archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)


@contextmanager
def _claimed(path: Path, source: ImageSource, replace: bool) -> Iterator[Path]:
    """Yield the temporary file or folder that becomes `path` when the block ends well."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with claimed(path, folder=path.suffix.lower() not in SUFFIXES) as part:
            # Again: another process may have written it while the model was loaded, and while images were drawn.
            check_target(path, replace=replace)
            _check_room(path, source)
            yield part
            check_target(path, replace=replace)
    except BlockingIOError as error:
        raise UserError(f"another process is writing {path.name} just now") from error
    except OSError as error:
        raise cannot_write(path, error, kept="nothing is left of it") from error


def _check_room(path: Path, source: ImageSource) -> None:
    """Raise HostError before any work when the disk is too small; the size of PNG files is unknown in advance."""
    if path.suffix.lower() not in SUFFIXES:
        return
    needed, free = _image_bytes(source), shutil.disk_usage(path.parent).free
    if needed > free:
        raise HostError(f"{path} needs {needed / 2**20:,.1f} MiB, {free / 2**20:,.1f} MiB are free: make room first")
