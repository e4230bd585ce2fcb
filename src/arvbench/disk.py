"""Errors of a disk, as OSErrors whichever library wrote, and the one line that a user reads about them.

HostError   the machine lacks something: space, quota, a disk that works
UserError   the place was badly chosen or is limited: no permission, no folder, a limit on the size of files
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from arvbench.errors import HostError, UserError

if TYPE_CHECKING:
    from torch import Tensor

_FULL = (errno.ENOSPC, errno.EDQUOT)
_BROKEN = (errno.EIO, errno.EROFS, errno.ENODEV, errno.ENXIO, errno.ESTALE, errno.EMFILE, errno.ENFILE)
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
"""Number of the system's error in the text of one of safetensors."""


def cannot_write(where: Path | str, error: OSError, *, kept: str = "") -> UserError | HostError:
    """Return the error to raise when the disk refuses: `where` is a path, or words that follow "cannot write".

    `kept` says what is left of the work so far.
    """
    done = f"; {kept}" if kept else ""
    reason = f"cannot write {where}: {error.strerror or error}{done}"
    if error.errno in _FULL:
        return HostError(f"{reason}; make room and run the same command again")
    if error.errno == errno.EFBIG:
        return UserError(f"{reason}; raise the limit on the size of files (ulimit -f) and run the same command again")
    if error.errno in _BROKEN:
        return HostError(f"{reason}; choose another place")
    return UserError(f"{reason}; choose another place")


@contextmanager
def utf8_name(path: Path) -> Iterator[str]:
    """Yield a name under which torch and safetensors can read a file: they open none that is not UTF-8."""
    if _is_utf8(path):
        yield os.fspath(path)
        return
    with path.open("rb") as file:
        yield f"/proc/self/fd/{file.fileno()}"


def _is_utf8(path: Path) -> bool:
    return os.fsencode(path) == os.fspath(path).encode(errors="replace")


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a .safetensors. Raises OSError where the disk refuses: safetensors has an error of its own for that."""
    from safetensors import SafetensorError
    from safetensors.torch import save, save_file

    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    stated = None if metadata is None else dict(metadata)
    try:
        if _is_utf8(path):
            save_file(whole, path, metadata=stated)
        else:
            path.write_bytes(save(whole, metadata=stated))
    except SafetensorError as error:
        if found := _OS_ERROR.search(str(error)):
            number = int(found[1])
            raise OSError(number, os.strerror(number), str(path)) from error
        raise
