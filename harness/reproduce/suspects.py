"""Why a number may differ from the published one: causes that have moved FIDs before, each with the command to test it.

State   differs         this run is known to differ from the recipe here
        as the recipe   it does not
        not stated      the source is silent, so nobody knows
        to be tested    only the command can tell
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

from arvbench.harness.quality.reference.official import PUBLISHED
from arvbench.harness.reproduce.cases import FULL_SUITE, SMOKE_SUITE, Attempt, command_of
from arvbench.harness.suites.recipes import Recipe
from arvbench.paths import printable
from arvbench.results.reproduction import Suspect
from arvbench.results.schema import Measured

State = Literal["differs", "as the recipe", "not stated", "to be tested"]
_ORDER: Final[tuple[State, ...]] = ("differs", "not stated", "to be tested", "as the recipe")
_RULES: Final = ("truncate", "round", "127.5x+128")
_FEW: Final = 5000
"""Images of a quicker test: both sides of it then have the same bias."""


def suspects_of(attempt: Attempt, outcome: Measured, published_file: str) -> tuple[Suspect, ...]:
    """Return the causes to suspect, known differences first. `published_file` is the name of the official reference."""
    found = [*_settings(attempt, outcome), *_images(attempt, outcome), *_evaluation(attempt, outcome, published_file)]
    return tuple(sorted(found, key=lambda suspect: _ORDER.index(suspect.state)))


def _settings(attempt: Attempt, outcome: Measured) -> Iterator[Suspect]:
    """Yield the causes among sampling settings."""
    used, deviations = outcome.setup.settings, _deviations(outcome)
    silent = attempt.recipe.silent if attempt.recipe else ()
    state = _state(deviations, silent, "settings.top_k", "settings.top_p")
    filters = f"top_k {used.get('top_k')}, top_p {used.get('top_p')}"
    yield _suspect("top-k, top-p", state, f"{filters} here; without them other tokens are drawn",
                   _again(attempt, "filters", "settings.top_k=null", "settings.top_p=null"))  # fmt: skip
    cfg = float(used.get("cfg") or 0)
    near = ",".join(f"{value:g}" for value in (max(0.0, cfg - 0.2), cfg, cfg + 0.2))
    note = _cfg_note(attempt.recipe)
    yield _suspect("guidance", _state(deviations, silent, "settings.cfg"), f"cfg {cfg:g} here{note}",
                   _again(attempt, "cfg", f"settings.cfg=[{near}]"))  # fmt: skip
    rule = str(used.get("uint8_rule"))
    yield _suspect("bytes", _state(deviations, silent, "settings.uint8_rule"),
                   f"floats become bytes by {rule!r} here; other rules are other images",
                   _again(attempt, "uint8", f"settings.uint8_rule=[{', '.join(_RULES)}]"))  # fmt: skip
    dtype = "float32" if attempt.recipe is None else attempt.recipe.dtype or "float32"
    yield _suspect("data type", _state(deviations, silent, "dtype"),
                   f"{dtype} here; official code runs autocast over float32 weights, which no case here does",
                   _again(attempt, "dtype", "dtype=[float32, bfloat16]"))  # fmt: skip


def _images(attempt: Attempt, outcome: Measured) -> Iterator[Suspect]:
    """Yield the causes among the images: how many, of which classes, and the way that they go."""
    deviations, silent = _deviations(outcome), attempt.recipe.silent if attempt.recipe else ()
    state: State = "differs" if attempt.images != attempt.published_images else "as the recipe"
    text = f"{attempt.images:,} here, {attempt.published_images:,} published; FID falls with their number"
    whole = replace(attempt, images=attempt.published_images)
    yield _suspect("number of images", state, text, shlex.split(command_of(whole)))
    labels = (attempt.recipe.labels if attempt.recipe else None) or "balanced"
    other = "uniform" if labels.startswith("balanced") else "balanced"
    yield _suspect("class balance", _state(deviations, silent, "quality.labels"),
                   f"labels {labels} here; drawn at random, classes differ in number, and IS and FID with them",
                   _again(attempt, "labels", f"quality.labels={other}"))  # fmt: skip
    yield _suspect("noise", "to be tested", "another seed says what luck does to the number",
                   _again(attempt, "seed", "quality.seed=1"))  # fmt: skip
    pngs = printable(attempt.folder / "pngs")
    sample = ["arvbench", "sample", attempt.model, "--weights", attempt.weights, "--device", attempt.device,
              "--images", str(min(_FEW, attempt.images)), "--out", pngs]  # fmt: skip
    text = (
        "images are judged from memory here, as PNG would be; JPEG is another picture. This writes PNG, to be judged "
    )
    text += "by `arvbench eval`, also after your own JPEG"
    yield _suspect("PNG or JPEG", "to be tested", text, sample)


def _evaluation(attempt: Attempt, outcome: Measured, published_file: str) -> Iterator[Suspect]:
    """Yield the causes in the evaluation and in the files."""
    if attempt.recipe is not None:
        entry = next((each for each in PUBLISHED.values() if each.file_name == published_file), None)
        notes = " ".join(number.note for number in outcome.quality)
        known = entry is not None and entry.sha256 != ""
        state: State = "differs" if "another file" in notes or "named like" in notes else "to be tested"
        if state != "differs" and known and Path(attempt.reference).name == published_file:
            state = "as the recipe"
        digest = f"; its sha256 is {entry.sha256}" if entry is not None and known else "; its digest is not published"
        text = f"published against {published_file}{digest}"
        yield _suspect("reference file", state, text, ["sha256sum", printable(attempt.reference)])
        yield _suspect("another protocol", "to be tested", "torch-fidelity and clean-fid resize otherwise, and give "
                       "other numbers for equal images", _again(attempt, "protocols", "quality.protocols=[adm-v1, "
                       "torch-fidelity]"))  # fmt: skip
    files = ", ".join(f"{name} {digest[:12]}..." for name, digest in outcome.setup.weights_sha256.items())
    text = f"loaded strictly: {files}. Weights of another training of this size load too"
    verify = ["arvbench", "run", printable(attempt.folder / SMOKE_SUITE), "--fresh", "--out",
              printable(attempt.folder / "smoke")]  # fmt: skip
    yield _suspect("other weights", "to be tested", f"{text}: look at the pictures", verify)


def _deviations(outcome: Measured) -> Mapping[str, Any]:
    return outcome.setup.recipe_deviations


def _state(deviations: Mapping[str, Any], silent: Sequence[str], *keys: str) -> State:
    if any(key in deviations for key in keys):
        return "differs"
    return "not stated" if any(key in silent for key in keys) else "as the recipe"


def _cfg_note(recipe: Recipe | None) -> str:
    """Return what the source says about guidance besides its number; "" for nothing."""
    note = recipe.stated["note"] if recipe else ""
    return f"; {note}" if "cfg" in note.lower() else ""


def _again(attempt: Attempt, name: str, *settings: str) -> list[str]:
    """Return the command that measures the case with other settings, in a folder of its own."""
    inception = attempt.extractor_files.get("inception")
    return [
        "arvbench", "run", printable(attempt.folder / FULL_SUITE),
        *(word for setting in settings for word in ("--set", setting)),
        *(("--inception-weights", printable(inception)) if inception else ()),
        "--out", printable(attempt.folder / name),
    ]  # fmt: skip


def _suspect(cause: str, state: State, text: str, command: Sequence[str]) -> Suspect:
    return Suspect(cause=cause, state=state, text=text, command=shlex.join(command))
