"""Files that are written whole or not at all, locks that end with their process, and the cache folder.

Contract of a write
  Before    New content goes to a hidden temporary in the target's own folder, so that the last step is one rename.
            Its name begins with "." + the target's name + "." and ends with ".part".
  Success   The content is on the disk (fsync), the temporary has become the target (rename), and the folder is synced:
            on return, the new content survives a power cut. Files of a written folder are not synced one by one.
  Failure   The target is untouched and the temporary is gone, whatever was raised. An error of the last step, the sync
            of the folder, leaves the new content in place.
  Kill      The target is whole, old or new. A temporary may stay; nothing reads it. `temporaries` lists them, `claimed`
            clears away its own.
  Mode      New files have the permissions that the umask gives, whatever the old file had.

`replacing` and `write_whole` give every writer a temporary of its own (".NAME.PID-RANDOM.part"): writers of one target
do not see each other, and the last one wins. `claimed` gives all of them one (".NAME.part") and lets one in.

Nothing here turns an OSError into a message: callers know what was to be written and where else it could go.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from arvbench.paths import user_path

CACHE_VARIABLE = "ARVBENCH_CACHE"
"""Environment variable that names the cache folder."""


def cache_folder(name: str) -> Path:
    """Return folder `name` of the cache, in $ARVBENCH_CACHE or else in ~/.cache/arvbench. It may not exist yet."""
    root = os.environ.get(CACHE_VARIABLE)
    return user_path(root or Path("~") / ".cache" / "arvbench") / name


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file (text as UTF-8) so that a reader finds all of it or what was there before."""
    with replacing(path) as part, part.open("xb") as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path, not yet a file; the file written there replaces `path` when the block ends well."""
    part = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        yield part
        put_in_place(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def claimed(path: Path, *, folder: bool = False) -> Iterator[Path]:
    """Yield the one temporary of `path`, an empty file or folder; it replaces `path` when the block ends well.

    A block that raises leaves `path` as it was. Raises BlockingIOError while another process is in such a block: the
    temporary itself is locked, so a killed process is in nobody's way. A folder at `path` is set aside as ".NAME.old"
    for the moment between two renames.
    """
    part = path.with_name(f".{path.name}.part")
    part.mkdir(exist_ok=True) if folder else part.touch()
    lock = os.open(part, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Another writer may have renamed it between our opening and our locking: it is the finished target then.
        if not part.exists() or part.stat().st_ino != os.fstat(lock).st_ino:
            raise BlockingIOError(errno.EWOULDBLOCK, "another process is writing it", str(path))
        try:
            _empty(part)
            yield part
            if folder:
                _put_folder_in_place(part, path)
            else:
                put_in_place(part, path)
        finally:
            _remove(part)
    finally:
        os.close(lock)


def put_in_place(part: Path, path: Path) -> None:
    """Flush the file `part` to the disk and rename it to `path`, on the same file system, replacing a file there."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(path)
    _sync_folder(path.parent)


def temporaries(path: Path) -> list[Path]:
    """Return the temporaries of `path` that exist, those of running writers and those that killed ones left."""
    return sorted(entry for entry in path.parent.iterdir() if is_temporary(entry.name, path.name))


def is_temporary(name: str, target: str) -> bool:
    """Return whether `name` is that of a temporary of the file name `target`."""
    return name.startswith(f".{target}.")


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold an advisory lock on the file `path`, which is made when missing and stays; it ends with this process.

    Yields True. Without `wait`, yields False at once where another process, or another open lock of this one, holds it.
    """
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = True
        except BlockingIOError:
            held = False
        yield held


def _put_folder_in_place(part: Path, path: Path) -> None:
    if not path.exists():
        part.rename(path)
    else:
        old = path.with_name(f".{path.name}.old")
        _remove(old)
        path.rename(old)
        part.rename(path)
        shutil.rmtree(old)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Put a rename on the disk, where the file system can sync folders."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _empty(path: Path) -> None:
    if not path.is_dir():
        os.truncate(path, 0)
        return
    for entry in path.iterdir():
        _remove(entry)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
