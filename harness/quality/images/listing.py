"""Listing of a folder of samples: its pictures, and every other file that may have been meant as one.

Hidden   Names that begin with a dot and those that systems leave behind (`SYSTEM_NAMES`) are no samples and no classes.
Links    Links are followed. One that leads nowhere is an error: the image that was meant changes the numbers.
Others   Files that are no pictures by their ending are counted by ending, so that no image is lost without a word.
         Texts and tables (`DOCUMENTS`) are the exception: samplers write them beside their images.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from arvbench.errors import UserError
from arvbench.paths import printable

SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
"""Ending of a picture's name, in lower case -> its format."""
DOCUMENTS = frozenset(
    (
        *(".txt", ".text", ".md", ".rst", ".log", ".out", ".err", ".csv", ".tsv", ".json", ".jsonl", ".yaml", ".yml"),
        *(".toml", ".ini", ".cfg", ".xml", ".html", ".htm", ".css", ".js", ".py", ".sh", ".ipynb", ".pdf", ".tex"),
    )
)
"""Endings of files that hold no pictures."""
SYSTEM_NAMES = frozenset(
    (
        *("__macosx", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r", "$recycle.bin"),
        *("system volume information", "lost+found", "@eadir", "#recycle", "network trash folder"),
    )
)
"""Names, in lower case, that operating systems and storage servers leave in folders."""
_MOST_ENDINGS = 5
_MOST_PARTS = 200
"""Folders inside one another: deeper ones are no set of samples, and exceed the recursion of the walk."""


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A picture of a listing, with the state that it had then."""

    relative: str
    """Path below the folder, with "/" between the parts."""
    size: int
    mtime_ns: int

    def check_unchanged(self, path: Path) -> None:
        """Raise UserError when the file at `path` is not as it was listed: a pass would mix two sets of images."""
        try:
            status = path.stat()
        except OSError as error:
            raise UserError(
                f"cannot read {printable(path)}: {error.strerror or error}, though it was there when the folder was "
                "listed: run again when the folder is finished"
            ) from error
        if (status.st_size, status.st_mtime_ns) != (self.size, self.mtime_ns):
            raise UserError(f"{printable(path)} has changed since the folder was listed: run again when it is finished")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Files below a folder."""

    pictures: list[PictureFile]
    """In text order of their relative paths."""
    passed_over: str
    """Count of the files that are not read, by ending, with the first one's name; empty when there are none."""


@dataclass(slots=True)
class _Found:
    pictures: list[PictureFile] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    dangling: list[str] = field(default_factory=list)


def list_folder(folder: Path) -> Listing:
    """List all files below `folder`.

    Raises UserError for a link that leads nowhere, a picture's name on a pipe or device, and an unreadable folder.
    """
    if not folder.is_dir():
        raise UserError(f"{printable(folder)} is not a folder")
    found = _Found()
    try:
        _walk(folder, PurePosixPath(), frozenset(), found)
    except OSError as error:
        raise UserError(
            f"cannot read folder {printable(error.filename or folder)}: {error.strerror or error}"
        ) from error
    if found.dangling:
        names = len(found.pictures) + len(found.others) + len(found.dangling)
        raise UserError(
            f"{printable(folder / min(found.dangling))} is a link that leads nowhere (so are {len(found.dangling):,} "
            f"of {names:,} names in {printable(folder)}): put the files back, or remove the links"
        )
    pictures = sorted(found.pictures, key=lambda file: file.relative)
    return Listing(pictures=pictures, passed_over=_by_ending(sorted(found.others)))


def is_hidden(name: str) -> bool:
    """Return True for a name that no user gave to samples."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def suffix_of(name: str) -> str:
    """Return the ending of a file's name in lower case, with its dot; empty for a name without one."""
    return PurePosixPath(name).suffix.lower()


def _by_ending(names: Sequence[str]) -> str:
    """Describe the files that are not read; documents alone need no word."""
    unknown = [name for name in names if suffix_of(name) not in DOCUMENTS]
    if not unknown:
        return ""
    counts = Counter(suffix_of(name) or "no ending" for name in unknown)
    kinds = [f"{count:,} {printable(ending)}" for ending, count in counts.most_common(_MOST_ENDINGS)]
    if len(counts) > _MOST_ENDINGS:
        kinds.append("...")
    files = "1 file is" if len(unknown) == 1 else f"{len(unknown):,} files are"
    first = printable(unknown[0]).replace(";", ",")  # notes are joined by semicolons
    counted = ", ".join(kinds).replace(";", ",")
    return f"{files} not read, only names in .png, .jpg and .jpeg are ({counted}): {first}"


def _walk(folder: Path, relative: PurePosixPath, parents: frozenset[tuple[int, int]], found: _Found) -> None:
    """Add the files below `folder` to `found`."""
    status = folder.stat()
    if (identity := (status.st_dev, status.st_ino)) in parents:
        return  # a link to one of its own parents
    if len(relative.parts) > _MOST_PARTS:
        raise UserError(
            f"{printable(folder)} is more than {_MOST_PARTS} folders deep: give the folder that holds the images"
        )
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not is_hidden(entry.name)]
    for entry in visible:
        place = relative / entry.name
        try:
            status = entry.stat()
        except (FileNotFoundError, NotADirectoryError):
            if not entry.is_symlink():
                raise
            if suffix_of(entry.name) not in DOCUMENTS:
                found.dangling.append(place.as_posix())
            continue
        if stat.S_ISDIR(status.st_mode):
            _walk(folder / entry.name, place, parents | {identity}, found)
        elif suffix_of(entry.name) not in SUFFIXES:
            found.others.append(place.as_posix())
        elif stat.S_ISREG(status.st_mode):
            found.pictures.append(PictureFile(place.as_posix(), status.st_size, status.st_mtime_ns))
        else:
            raise UserError(f"{printable(folder / entry.name)} is a pipe, socket or device, not a file: remove it")
