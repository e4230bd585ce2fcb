"""Files that travel between machines without a shared file system: their bytes, each with its digest.

A receiver writes them only below its own folder, and only when every digest fits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from arvbench.disk import cannot_write
from arvbench.errors import HostError
from arvbench.files import write_whole

Parcel = Mapping[str, tuple[bytes, str]]
"""Path below a folder, with "/" -> content and its sha256."""


def pack(folder: Path, paths: Iterable[Path]) -> Parcel:
    """Return files of a folder."""
    contents = {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(paths) if path.is_file()}
    return {name: (content, hashlib.sha256(content).hexdigest()) for name, content in contents.items()}


def unpack(parcel: Parcel, folder: Path) -> None:
    """Write the files of a parcel below `folder`. Raises HostError for a changed byte, another place or a full disk."""
    for name, (content, sha256) in parcel.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise HostError(f"a machine sent a file for another place: {name!r}")
        if hashlib.sha256(content).hexdigest() != sha256:
            raise HostError(f"{name} arrived with other bytes than were sent")
    for name, (content, _) in parcel.items():
        target = folder / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_whole(target, content)
        except OSError as error:
            raise cannot_write(target, error) from error
