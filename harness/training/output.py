"""Output folder of a training: checked before it starts, filled only on success."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from arvbench.disk import cannot_write
from arvbench.files import put_in_place


@contextmanager
def staged(out_dir: Path) -> Iterator[Path]:
    """Yield a folder inside `out_dir` whose files move into `out_dir` when the block succeeds.

    A failed training leaves earlier files unchanged. Raises UserError or HostError, as `cannot_write`, for an
    `out_dir` that cannot be written.
    """
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(dir=out_dir, prefix=".training-"))
    except OSError as error:
        raise cannot_write(f"to {out_dir}", error) from error
    try:
        yield stage
        for file in sorted(stage.iterdir()):
            file.chmod(0o644)
            put_in_place(file, out_dir / file.name)
    except OSError as error:
        raise cannot_write(f"to {out_dir}", error) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
