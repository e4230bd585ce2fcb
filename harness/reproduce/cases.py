"""The two cases of a reproduction, as suites in its folder: a smoke image, and the official number of images.

Both are run by the runner of `arvbench run`, so that an interrupted attempt goes on where it was.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from arvbench.errors import UserError
from arvbench.files import write_whole
from arvbench.harness.suites.recipes import OFFICIAL, Recipe
from arvbench.harness.suites.suite import Suite, load_suite
from arvbench.paths import printable

SMOKE_SUITE: Final = "smoke.yaml"
FULL_SUITE: Final = "suite.yaml"
"""Suites in the folder, which `arvbench run` takes as well."""
BATCH: Final = 32
DEMO_BATCH: Final = 50
"""Of the recorded run of the demo models."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """Options of a reproduction."""

    model: str
    weights: str
    device: str
    reference: str
    images: int
    """Images to draw."""
    published_images: int
    batch: int
    workers: int
    folder: Path
    recipe: Recipe | None
    """None for a demo model."""
    extractor_files: dict[str, Path] = field(default_factory=dict)


def smoke_suite(attempt: Attempt) -> Suite:
    """Write the suite of the smoke image, and read it. Raises UserError as `load_suite`."""
    case = _common(attempt) | {"batch": 1, "sample_sheet": 1, "max_warmup": 1, "repeats": 1}
    return _written(attempt.folder / SMOKE_SUITE, "reproduce-smoke", case)


def full_suite(attempt: Attempt) -> Suite:
    """Write the suite of all images, and read it. Raises UserError as `load_suite`."""
    quality: dict[str, Any] = {"reference": attempt.reference, "images": attempt.images, "workers": attempt.workers}
    if attempt.recipe is None:
        quality |= {"protocols": ["digits-cnn"], "metrics": ["fid", "label-accuracy"]}
    else:
        quality |= {"protocols": [attempt.recipe.protocol]}
    case = _common(attempt) | {"batch": attempt.batch, "max_warmup": 2, "repeats": 1, "quality": quality}
    return _written(attempt.folder / FULL_SUITE, "reproduce", case)


def _common(attempt: Attempt) -> dict[str, Any]:
    case: dict[str, Any] = {
        "model": attempt.model,
        "weights": attempt.weights,
        "device": attempt.device,
        "timeout_s": 31_536_000 if attempt.recipe else 3600,
    }
    if attempt.recipe is None:
        return case | {"threads": 1, "settings": {"uint8_rule": "round"}}
    return case | {"recipe": OFFICIAL}


def _written(path: Path, name: str, case: dict[str, Any]) -> Suite:
    suite = {"name": name, "description": "Written by arvbench reproduce", "cases": [case]}
    text = yaml.safe_dump(suite, sort_keys=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    except OSError as error:
        raise UserError(f"cannot write {printable(path)}: {error.strerror or error}; choose another --out") from error
    return load_suite(str(path))


def command_of(attempt: Attempt) -> str:
    """Return the command that makes an attempt again."""
    words = ["arvbench", "reproduce", attempt.model]
    if attempt.recipe is not None:
        words += ["--weights", attempt.weights, "--reference", attempt.reference, "--device", attempt.device]
    if attempt.batch != (BATCH if attempt.recipe else DEMO_BATCH):
        words += ["--batch", str(attempt.batch)]
    if attempt.workers > 1:
        words += ["--workers", str(attempt.workers)]
    if attempt.images != attempt.published_images:
        words += ["--images", str(attempt.images)]
    for name, path in attempt.extractor_files.items():
        option = ["--inception-weights", printable(path)] if name == "inception" else []
        words += option or ["--extractor-weights", f"{name}={printable(path)}"]
    return shlex.join([*words, "--out", printable(attempt.folder)])
