"""Output folder of a training: checked before it starts, filled only on success.

A training writes into ".training-PID-RANDOM.part" there. When it has succeeded, the folder is renamed to ".done", and
its files move into place one by one. What is killed in between is finished by the next training into that folder.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from arvbench.disk import cannot_write
from arvbench.files import held, own_folder, put_in_place, remove_dead_in, sync_folder

_PART = re.compile(r"\.training-\d+-[0-9a-f]{8}\.part")
_DONE = re.compile(r"\.training-\d+-[0-9a-f]{8}\.done")


@contextmanager
def staged(out_dir: Path) -> Iterator[Path]:
    """Yield a folder inside `out_dir` whose files move into `out_dir` when the block succeeds.

    A failed training leaves earlier files unchanged. Raises UserError or HostError, as `cannot_write`, for an
    `out_dir` that cannot be written.
    """
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        _finish_others(out_dir)
        with own_folder(out_dir / f".training-{os.getpid()}-{secrets.token_hex(4)}.part") as stage:
            yield stage
            done = stage.rename(stage.with_suffix(".done"))
            sync_folder(out_dir)
            _move(done, out_dir)
    except OSError as error:
        raise cannot_write(f"to {out_dir}", error) from error


def _finish_others(out_dir: Path) -> None:
    """Move the files of trainings that were killed after their success, and remove those of the others."""
    for done in sorted(entry for entry in out_dir.iterdir() if _DONE.fullmatch(entry.name)):
        with held(done) as ours:
            if ours:
                _move(done, out_dir)
    remove_dead_in(out_dir, _PART)


def _move(done: Path, out_dir: Path) -> None:
    for file in sorted(done.iterdir()):
        file.chmod(0o644)
        put_in_place(file, out_dir / file.name)
    done.rmdir()
