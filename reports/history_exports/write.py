"""Writer of exports: every file whole, and none over a file that is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from arvbench.errors import UserError
from arvbench.files import write_whole
from arvbench.paths import printable, user_path
from arvbench.reports.history_exports import EXPORTS
from arvbench.results.history import History


def parse_exports(texts: Sequence[str]) -> list[tuple[str, Path]]:
    """Read every FORMAT=FILE. Raises UnknownName for another format, UserError for another form."""
    requests = []
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or not path:
            raise UserError(f"--export {text!r}: write FORMAT=FILE; formats: {', '.join(EXPORTS)}")
        _ = EXPORTS[name]
        requests.append((name, user_path(path)))
    return requests


def make_exports(history: History, requests: Iterable[tuple[str, Path]], keep: Sequence[Path] = ()) -> dict[Path, str]:
    """Return the texts of the exports by file. Raises UserError for a file that two have, or that is one of `keep`."""
    texts: dict[Path, str] = {}
    kept = {path.resolve() for path in keep}
    for name, path in requests:
        for file, text in EXPORTS[name](history, path).items():
            if file in texts:
                raise UserError(f"two exports cannot both be {printable(file)}: name them apart")
            if file.resolve() in kept:
                raise UserError(f"{printable(file)} is read or written otherwise: export to another file")
            texts[file] = text
    return texts


def write_exports(texts: Mapping[Path, str]) -> None:
    """Write the files of exports. Raises UserError where one cannot be written."""
    for file, text in texts.items():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, text)
        except OSError as error:
            raise UserError(f"cannot write {printable(file)}: {error.strerror or error}") from error
