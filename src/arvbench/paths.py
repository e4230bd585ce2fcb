"""Paths as users write them: "~" expanded, refused where the system cannot look, printable whatever their bytes.

Every path that comes from outside (an option, a suite, an environment variable) goes through `user_path` once. After
it, `exists`, `is_file` and `is_dir` answer instead of raising.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from arvbench.errors import UserError, shown

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def user_path(text: str | os.PathLike[str]) -> Path:
    """Return the path that a user wrote, with "~" expanded; it need not exist.

    Raises UserError for an empty path, an unknown home folder, and a path that the system refuses: a name that is too
    long, a loop of links, a folder that may not be entered, a null byte.
    """
    if not os.fspath(text):
        raise UserError("an empty path; write . for the working folder")
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise UserError(f"{printable(text)}: there is no such user, so no home folder of theirs") from None
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot use the path {shown(printable(path))}: {reason}") from None
    return path


def regular_file(path: Path, *, most_bytes: int | None = None) -> None:
    """Raise UserError when `path` is not a file that can be read to its end, or is larger than `most_bytes`.

    A read of a named pipe or of a terminal would wait for ever.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"cannot read {printable(path)}: {error.strerror or error}") from error
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "of an unknown kind")
        raise UserError(f"cannot read {printable(path)}: it is {kind}, not a file")
    if most_bytes is not None and status.st_size > most_bytes:
        raise UserError(f"{printable(path)} has {status.st_size:,} bytes, and at most {most_bytes:,} are read")


def printable(text: str | bytes | os.PathLike[str]) -> str:
    """Return a path, or a message with paths, for a terminal or a file; bytes that are not UTF-8 become \\xNN."""
    given = os.fspath(text)
    if isinstance(given, str):
        try:
            content = given.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:  # half a surrogate pair, which no file system gave
            content = given.encode("utf-8", "backslashreplace")
        return content.decode("utf-8", "backslashreplace")
    return given.decode("utf-8", "backslashreplace")
