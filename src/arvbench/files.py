"""Files that are written whole or not at all, locks that end with their process, scratch folders, and the cache.

Contract of a write
  Before    New content goes to a hidden temporary beside the target, so that the last step is one rename. Its name
            begins with "." + the target's name and ends with ".part". Its writer holds a lock on it.
  Success   The content is on the disk (fsync), the temporary has become the target (rename), and the folder is synced:
            on return, the new content survives a power cut.
  Failure   The target is untouched and the temporary is gone, whatever was raised. An error of the last step, the sync
            of the folder, leaves the new content in place.
  Kill      The target is whole, old or new. A temporary may stay: nobody locks it any more, so the next writer of the
            target removes it. Nothing but unlocked temporaries is ever removed, and no existing file is truncated.
  Mode      New files have the permissions that the umask gives, whatever the old file had.

`replacing` and `write_whole` give every writer a temporary of its own (".NAME.PID-RANDOM.part"): writers of one target
do not see each other, and the last one wins. `claimed` gives all of them one (".NAME.part") and lets one in.

Every lock is flock(2) on a file or folder. One that was renamed or removed between our opening and our locking guards
nothing: `_same` finds that out. Nothing here turns an OSError into a message: callers know what was to be written and
where else it could go.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from arvbench.paths import user_path

_MOST_ATTEMPTS = 100
"""Attempts to make a temporary that other writers do not take away before it is locked."""
CACHE_VARIABLE = "ARVBENCH_CACHE"
"""Environment variable that names the cache folder."""
_LONGEST_NAME = 200
"""Bytes of a target's name that leave room for an ending: file systems take 255."""
_OWN_PART = r"\d+-[0-9a-f]{8}\.part"
SCRATCH_NAME = re.compile(rf"arvbench-{_OWN_PART}")
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
"""Arguments of renameat2(2)."""
_NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM)
"""Errors of a system or file system that cannot exchange two names."""


def cache_folder(name: str) -> Path:
    """Return folder `name` of the cache, in $ARVBENCH_CACHE or else in ~/.cache/arvbench. It may not exist yet."""
    root = os.environ.get(CACHE_VARIABLE)
    return user_path(root or Path("~") / ".cache" / "arvbench") / name


def hidden(path: Path, ending: str) -> Path:
    """Return the hidden name ".NAME.ENDING" beside `path`; of a name too long for that, its start and a digest."""
    name = path.name
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = f"{name[:30]}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"
    return path.with_name(f".{name}.{ending}")


def own_name(path: Path) -> Path:
    """Return a new name for a temporary of `path` that no other process takes."""
    return hidden(path, f"{os.getpid()}-{secrets.token_hex(4)}.part")


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file (text as UTF-8) so that a reader finds all of it or what was there before."""
    with replacing(path) as part:
        write_all(part, content.encode() if isinstance(content, str) else content)


def write_all(path: Path, content: bytes) -> None:
    """Write into the existing file `path`."""
    with path.open("r+b", buffering=0) as file:
        left = memoryview(content)
        while left:
            left = left[os.write(file.fileno(), left) :]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file, empty and this writer's own; it replaces `path` when the block ends well."""
    remove_dead(path)
    with _part(own_name(path)) as part:
        yield part
        put_in_place(part, path)


@contextmanager
def claimed(path: Path, *, folder: bool = False) -> Iterator[Path]:
    """Yield the one temporary of `path`, an empty file or folder; it replaces `path` when the block ends well.

    A block that raises leaves `path` as it was. Raises BlockingIOError while another process is in such a block; a
    killed process is in nobody's way. What a killed replacement of a folder set aside is first brought back.
    """
    with _part(hidden(path, "part"), folder=folder) as part:
        if folder:
            _restore(path)
        remove_dead(path)
        yield part
        if folder:
            _put_folder_in_place(part, path)
        else:
            put_in_place(part, path)


@contextmanager
def scratch_folder(top: Path | None = None) -> Iterator[Path]:
    """Yield a folder in `top`, by default the system's folder of temporary files; it is gone when the block ends.

    Scratch folders of killed processes are removed first.
    """
    top = top or Path(tempfile.gettempdir())
    remove_dead_scratch(top)
    with _part(top / f"arvbench-{os.getpid()}-{secrets.token_hex(4)}.part", folder=True, mode=0o700) as folder:
        yield folder


def remove_dead_scratch(top: Path | None = None) -> None:
    """Remove the scratch folders of this user whose processes are gone."""
    with contextlib.suppress(OSError):
        remove_dead_in(top or Path(tempfile.gettempdir()), SCRATCH_NAME)


def put_in_place(part: Path, path: Path) -> None:
    """Flush the file `part` to the disk and rename it to `path`, on the same file system, replacing a file there."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(path)
    sync_folder(path.parent)


def temporaries(path: Path) -> list[Path]:
    """Return the temporaries of `path` that exist, those of running writers and those that killed ones left."""
    return sorted(entry for entry in path.parent.iterdir() if is_temporary(entry, path))


def is_temporary(entry: Path, path: Path) -> bool:
    """Return whether `entry` has the name of a temporary of `path`."""
    return _part_names(path).fullmatch(entry.name) is not None


def remove_dead(path: Path) -> None:
    """Remove the temporaries of `path` whose writers are gone."""
    remove_dead_in(path.parent, _part_names(path))


def remove_dead_in(folder: Path, names: re.Pattern[str]) -> None:
    """Remove the files and folders of these names that no process holds and that belong to this user."""
    # A folder that cannot be listed and a part that cannot be removed are in nobody's way.
    with contextlib.suppress(OSError):
        for part in [entry for entry in folder.iterdir() if names.fullmatch(entry.name)]:
            with contextlib.suppress(OSError):
                if part.lstat().st_uid == os.getuid():
                    _remove_part(part)


def _part_names(path: Path) -> re.Pattern[str]:
    return re.compile(re.escape(hidden(path, "").name) + rf"({_OWN_PART}|part)")


@contextmanager
def locked(path: Path, *, wait: bool = True, shared: bool = False) -> Iterator[bool]:
    """Hold an advisory lock, `shared` or exclusive, on the lock file `path`; it ends with this process.

    The lock file is empty. It is made when missing, and removed by the last holder; one with content is another
    program's and stays. Yields True. Without `wait`, yields False at once where another process, or another open lock
    of this one, holds it. Raises OSError for a link, which is not followed.
    """
    lock = _open_lock(path, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    try:
        yield lock is not None
    finally:
        if lock is not None:
            _release(path, lock)


def sync_folder(folder: Path) -> None:
    """Put a rename on the disk, where the file system can sync folders."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with all it has; nothing where it is missing."""
    with contextlib.suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextmanager
def held(path: Path) -> Iterator[bool]:
    """Lock the file or folder `path` itself; yield False when it is gone, a link, or held by another process."""
    lock = None
    try:
        lock = _hold(path)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EWOULDBLOCK, errno.ELOOP):
            raise
    try:
        yield lock is not None
    finally:
        if lock is not None:
            os.close(lock)


@contextmanager
def own_folder(path: Path) -> Iterator[Path]:
    """Make the folder `path` and hold it (`held`) while the block runs; what is left of it then is removed."""
    with _part(path, folder=True) as folder:
        yield folder


@contextmanager
def _part(part: Path, *, folder: bool = False, mode: int = 0o777) -> Iterator[Path]:
    """Make and lock a temporary; at the end remove it, unless it has another name by then."""
    lock = _make_part(part, folder=folder, mode=mode)
    try:
        yield part
    finally:
        try:
            if _same(part, lock):
                remove(part)
        finally:
            os.close(lock)


def _make_part(part: Path, *, folder: bool, mode: int) -> int:
    """Return an open and locked temporary. Raises BlockingIOError where a living process has one of this name, or where
    others take it again and again.
    """
    for _ in range(_MOST_ATTEMPTS):
        try:
            if folder:
                part.mkdir(mode=mode)
            else:
                os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        except FileExistsError:
            _remove_part(part)
            continue
        # Until it is locked, another writer may take it for a dead one's and remove it: then make another.
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            try:
                return _hold(part)
            except OSError as error:
                if not isinstance(error, FileNotFoundError | BlockingIOError):
                    remove(part)
                raise
    raise BlockingIOError(errno.EWOULDBLOCK, "another process is writing it", str(part))


def _remove_part(part: Path) -> None:
    """Remove a dead process's temporary. Raises BlockingIOError when its process lives."""
    if part.is_symlink():
        part.unlink(missing_ok=True)  # no writer makes links; what it leads to is not ours
        return
    with contextlib.suppress(FileNotFoundError):
        lock = _hold(part)
        try:
            remove(part)
        finally:
            os.close(lock)


def _hold(path: Path) -> int:
    """Open and lock what is at `path`. Raises FileNotFoundError when it is gone, BlockingIOError when it is held."""
    flags = os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        lock = os.open(path, os.O_RDWR | flags)  # network file systems lock what may be written
    except (IsADirectoryError, PermissionError):
        lock = os.open(path, os.O_RDONLY | flags)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _same(path, lock):
            raise FileNotFoundError(errno.ENOENT, "it was moved meanwhile", str(path))
    except BlockingIOError:
        os.close(lock)
        raise BlockingIOError(errno.EWOULDBLOCK, "another process is writing it", str(path)) from None
    except BaseException:
        os.close(lock)
        raise
    return lock


def _same(path: Path, descriptor: int) -> bool:
    """Return whether `path` is the name of what is open."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _open_lock(path: Path, operation: int) -> int | None:
    """Return the lock file, open and locked; None when it is held and `operation` does not wait."""
    while True:
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise OSError(errno.ELOOP, f"its lock file {path.name} is a link: remove that link", str(path)) from error
        try:
            fcntl.flock(lock, operation)
            if _same(path, lock):
                return lock
        except BlockingIOError:
            os.close(lock)
            return None
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)  # the last holder removed it while we waited


def _release(path: Path, lock: int) -> None:
    """Unlock, and remove the lock file when nobody else holds it."""
    try:
        # Who waits for a removed file finds that out (`_same`). A disk that refuses leaves an empty file: no harm.
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock).st_size == 0 and _same(path, lock):
                path.unlink()
    finally:
        os.close(lock)


def _put_folder_in_place(part: Path, path: Path) -> None:
    """Replace the folder `path`, if there is one, by `part`."""
    _flush_files(part)
    if not path.exists():
        part.rename(path)
        sync_folder(path.parent)
        return
    # The old folder takes the temporary's name: its lock keeps that from the next writer until it is removed.
    with held(path):
        old = part if _exchange(part, path) else _set_aside(part, path)
        try:
            sync_folder(path.parent)
        finally:
            remove(old)


def _set_aside(part: Path, path: Path) -> Path:
    """Put `part` in the place of the folder `path` in two renames; return the old one's name."""
    aside = hidden(path, "old.part")
    path.rename(aside)
    try:
        part.rename(path)
    except OSError:
        aside.rename(path)
        raise
    return aside


def _restore(path: Path) -> None:
    """Bring back the folder that a killed process set aside, or remove it where its successor is in place."""
    aside = hidden(path, "old.part")
    if not aside.is_symlink() and aside.is_dir():
        remove(aside) if path.exists() else aside.rename(path)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two folders in one step; return False where the system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number not in _NO_EXCHANGE:
        raise OSError(number, os.strerror(number), str(other))
    return False


def _flush_files(folder: Path) -> None:
    """Put the files of a folder on the disk, all at once where the system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
        if syncfs is None:
            os.sync()
        elif syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder))
    finally:
        os.close(descriptor)
