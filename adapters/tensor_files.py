"""Read a file as tensors and nothing more; for any other file, say what it is.

The content decides, not the ending: a .safetensors file under the name x.pth is read as what it is. Pickles are opened
with `weights_only=True`: a file that needs more is refused, and none of its code runs. The checksums in a zip archive
of `torch.save` are verified, which torch itself does not do.
"""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import cast

import torch

from arvbench.disk import utf8_name
from arvbench.errors import CheckpointError

_HEAD_BYTES = 512
_CHUNK_BYTES = 1 << 20
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""First bytes of `torch.save` before torch 1.6: a pickled magic number."""
_MAX_HEADER_BYTES = 100_000_000
"""Longest header that the safetensors library accepts."""
_OTHER_FILES: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file it stands for: run `git lfs pull` in its repository"),
    (b"\x1f\x8b", "compressed by gzip: unpack it first (gunzip, or tar xf)"),
    (b"BZh", "compressed by bzip2: unpack it first (bunzip2)"),
    (b"\xfd7zXZ\x00", "compressed by xz: unpack it first (unxz)"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd: unpack it first (unzstd)"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it first"),
    (b"Rar!", "a RAR archive: unpack it first"),
    (b"\x93NUMPY", "a NumPy array, not a state dict of torch"),
    (b"\x89HDF", "an HDF5 file (Keras?), not a state dict of torch"),
    (b"GGUF", "a GGUF file, not a state dict of torch"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"%PDF", "a PDF document"),
)
"""First bytes of a file -> what it is, and what to do."""


def read_content(path: Path) -> object:
    """Return what `path` holds (.safetensors, or a file of `torch.save`), with tensors on the CPU.

    Raises CheckpointError for a file that is missing, damaged, unsafe or of another kind.
    """
    try:
        if not path.is_file():
            raise CheckpointError(f"{path} is a folder: give a file" if path.is_dir() else f"no weights file at {path}")
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not head:
        raise CheckpointError(f"{path} is damaged or truncated: it is empty")
    if is_safetensors(head):
        return _read_safetensors(path)
    if head.startswith(b"PK"):
        return _read_archive(path)
    if other := _other_kind(head):
        raise CheckpointError(f"{path} is {other}")
    if _LEGACY.startswith(head) and head != _LEGACY:
        raise CheckpointError(f"{path} is damaged or truncated: its header is not whole")
    if head.startswith(_LEGACY):
        return _read_pickle(path, mmap=False)
    if head.startswith(b"\x80"):
        raise CheckpointError(
            f"{path} refused: it is a Python pickle that torch.save did not write, and opening it could run code"
        )
    raise CheckpointError(
        f"{path} is damaged or truncated, or no file of weights: it begins with {head[:8].hex(' ')}, as neither a "
        "safetensors file nor one of torch.save does"
    )


def is_safetensors(head: bytes) -> bool:
    """Return True for the first bytes of a safetensors file: the length of a header, then its opening brace."""
    return head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= _MAX_HEADER_BYTES


def _other_kind(head: bytes) -> str:
    """Say what a file is that begins with `head`; "" for a file that may hold tensors."""
    for start, kind in _OTHER_FILES:
        if head.startswith(start):
            return kind
    if head[257:262] == b"ustar":
        return "a tar archive: unpack it first (tar xf)"
    if not head.strip(b"\0"):
        return "damaged or truncated: it begins with zeros, as a download that was not completed does"
    text = _as_text(head)
    if text.lower().startswith(("<!doctype", "<html", "<head", "<?xml", "<error")):
        return "a web page, not weights: the download got an error or a login page; fetch it again"
    if '"weight_map"' in text:
        return "an index of shards, not weights: merge the files that it names into one"
    if text:
        return f"a text file, not weights (it begins {text.splitlines()[0][:60]!r}): fetch it again"
    return ""


def _as_text(head: bytes) -> str:
    """Return `head` as text without leading white space; "" for anything else."""
    try:
        # The cut may lie inside a character.
        text = head.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "strict" if len(head) < _HEAD_BYTES else "ignore")
    except UnicodeDecodeError:
        return ""
    return text.lstrip() if all(c.isprintable() or c.isspace() for c in text) else ""


def _read_safetensors(path: Path) -> object:
    from safetensors.torch import load_file

    try:
        with utf8_name(path) as opened:
            return load_file(opened)
    except MemoryError:
        raise
    except Exception as error:  # the library raises errors of many kinds for bytes that it does not expect
        raise CheckpointError(f"{path} is damaged or truncated: {_one_line(error)}") from error


def _read_archive(path: Path) -> object:
    """Read a zip archive of `torch.save`, after its checksums are verified."""
    try:
        with zipfile.ZipFile(path) as archive:
            other = _other_archive(archive)
            if not other:
                _verify(archive)
    except Exception as error:  # zipfile raises errors of many kinds for a damaged directory
        raise CheckpointError(f"{path} is damaged or truncated: {_one_line(error)}") from error
    if other:
        raise CheckpointError(f"{path} is {other}")
    return _read_pickle(path, mmap=True)


def _other_archive(archive: zipfile.ZipFile) -> str:
    """Say what an archive is that `torch.save` did not write; "" for one that it may have written."""
    members = archive.infolist()
    names = [member.filename for member in members]
    if any(name.endswith("/constants.pkl") for name in names):
        return "a TorchScript archive, a program: save the state_dict() of the module that it holds, and give that file"
    if not any(name.rpartition("/")[2] == "data.pkl" for name in names):
        if names and all(name.endswith(".npy") for name in names):
            return "a NumPy .npz file, not a state dict of torch"
        shown = ", ".join(repr(name[:60]) for name in names[:3]) or "nothing"
        return f"a zip archive that torch.save did not write (it holds {shown}): unpack it, and give the file inside"
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        return "compressed, which torch.save never does: unpack it, and pack the folder without compression (zip -0 -r)"
    return ""


def _verify(archive: zipfile.ZipFile) -> None:
    """Raise BadZipFile for a member whose checksum is wrong."""
    for member in archive.infolist():
        if member.CRC == 0:  # torch writes no checksums after set_crc32_options(False)
            continue
        with archive.open(member) as content:
            while content.read(_CHUNK_BYTES):
                pass


def _read_pickle(path: Path, *, mmap: bool) -> object:
    try:
        # Training checkpoints keep their command line beside the weights, in a class that only holds values.
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")
            if path.suffix != ".safetensors":
                with utf8_name(path) as opened:
                    return cast(object, torch.load(opened, map_location="cpu", weights_only=True, mmap=mmap))
            # torch goes by this ending, and not by the content, when it is given a path.
            with path.open("rb") as file:
                return cast(object, torch.load(file, map_location="cpu", weights_only=True))
    except pickle.UnpicklingError as error:
        # torch's message suggests disabling the protection; show only what it rejected.
        rejected = re.search(r"GLOBAL \S+|Unsupported (?:global|class) \S+", str(error))
        if rejected is None and "Unsupported operand" in str(error):
            raise CheckpointError(
                f"{path} is damaged, or not written by torch.save: its pickle cannot be read"
            ) from error
        raise CheckpointError(
            f"{path} refused: it is not a plain file of tensors, and opening it could run code"
            + (f" ({rejected[0].rstrip('.')}); save the state_dict() alone" if rejected else "")
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # torch's reader raises errors of many kinds for bytes that it does not expect
        raise CheckpointError(f"{path} is damaged or truncated: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0][:200] if lines and lines[0].strip() else type(error).__name__
