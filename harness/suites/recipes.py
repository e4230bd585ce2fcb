"""Official recipes: the settings under which authors drew the samples behind their published numbers.

Recipes are data (results/published/sampling_recipes.csv), one row per model, resolution and list of scales. Columns up
to `note` quote the source word for word. Columns that begin with `our_` translate it into fields of a case:
`our_settings.KEY` is the sampling setting KEY, written in YAML. An empty cell, or the words "not stated", mark what the
source does not say. It is never guessed: `Recipe.notes` names the default that is used in its place.

Three deviations remain under any settings; `Recipe.notes` names them too:
  seeds      official random streams belong to a process or a batch; here each image has its own noise, so that its
             pixels depend on neither the batch size nor the number of workers
  precision  official code runs autocast over float32 weights; here weights and residual stream have the half type
  TF32       a recipe does not switch it; the environment in a record says whether it was on

Reading the recipes imports neither torch nor a model family.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import arvbench.results
from arvbench.adapters.registry import MODELS
from arvbench.errors import UnknownName
from arvbench.harness.suites.yaml_files import parse_value
from arvbench.results.schema import CaseConfig

RECIPES_FILE = Path(arvbench.results.__file__).parent / "published" / "sampling_recipes.csv"
OFFICIAL = "official"
"""Name of the recipe behind a model's headline number."""
SEED = 0
"""Run seed of the per-image noise, and of labels that are drawn at random."""
IMAGES = 50_000
"""Number of samples where a source states none: the one behind the ADM evaluator's published numbers."""
LABELS = "balanced"
"""Label scheme where a source states none."""
DTYPE = CaseConfig.model_fields["dtype"].default
"""Precision where a source states none."""
NOT_STATED = "not stated"

_DEFAULTS = {
    "dtype": DTYPE,
    "quality.images": IMAGES,
    "quality.labels": LABELS,
    "settings.uint8_rule": "the model's own",
    "quality.resize": "none",
}
"""Key of a case -> default where the source is silent; the last part of the key is a field of `Recipe`."""
_STATISTICS_ALONE = "adm_in256_stats.npz"
_SETTING = "our_settings."
"""Prefix of the columns that hold sampling settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Settings of the samples behind a published number; None marks a field that the source does not state."""

    model: str
    name: str
    settings: Mapping[str, Any]
    """Sampling settings of the model's family that the source states."""
    temperature: float | None
    images: int | None
    labels: str | None
    """Label scheme: "balanced", "balanced-shuffled" or "uniform"."""
    dtype: str | None
    """Data type of a case that is closest to the stated precision."""
    resize: str | None
    """Resize of the decoded image before it becomes bytes, such as "bicubic:256"; "none" without one."""
    reference: str
    """Published name of the reference file."""
    stated_for: str
    """Published name of another model, when the source states these settings for that one only; else ""."""
    stated: Mapping[str, str]
    """Quotations of the source, by column."""

    @property
    def uint8_rule(self) -> str | None:
        """Rule from floats to bytes: "truncate", "round" or "127.5x+128"."""
        return self.settings.get("uint8_rule")

    @property
    def protocol(self) -> str:
        """Protocol of the published numbers: a reference of statistics alone is compared with by another tool."""
        return "torch-fidelity-adm" if self.reference == _STATISTICS_ALONE else "adm-v1"

    @property
    def silent(self) -> tuple[str, ...]:
        """Keys of a case on which the source says nothing."""
        return tuple(key for key in _DEFAULTS if getattr(self, key.rpartition(".")[2]) is None)

    def layer(self) -> dict[str, Any]:
        """Return the recipe as a layer of a suite; its `quality` is for cases that ask for quality."""
        return {
            "settings": dict(self.settings),
            "quality": {
                "images": self.images or IMAGES,
                "labels": self.labels or LABELS,
                "resize": None if self.resize in (None, "none") else self.resize,
                "seed": SEED,
                "reference": self.reference,
            },
        } | ({"dtype": self.dtype} if self.dtype else {})

    @property
    def notes(self) -> tuple[str, ...]:
        """Deviations that no setting can remove, and the defaults used where the source is silent."""
        stated = self.stated
        seed = stated["seed"] or NOT_STATED
        seeds = f"seeds: officially “{seed}”; here each image has its own noise, made from quality.seed"
        if self.labels in ("uniform", "balanced-shuffled"):
            seeds += "; its labels are drawn from quality.seed too"
        notes = [seeds]
        if self.dtype is not None and "autocast" in stated["dtype_autocast"]:
            notes.append(
                f"precision: officially “{stated['dtype_autocast']}”, over float32 weights; here weights and residual "
                "stream have the half type too"
            )
        if self.stated_for:
            notes.append(f"source: it states these settings for {self.stated_for}, and no others for this model")
        if "glob order" in stated["post_processing"]:
            notes.append(
                "order: officially that of the file system, which the inception score in the given order (is) depends "
                "on; here by class, where splits of 5,000 hold few classes: is-shuffled is what compares"
            )
        if stated["tf32"]:
            notes.append(f"TF32: officially “{stated['tf32']}”; here as the environment says")
        if self.silent:
            defaults = ", ".join(f"{key.rpartition('.')[2]} ({_DEFAULTS[key]})" for key in self.silent)
            notes.append(f"not stated, so taken: {defaults}")
        return tuple(notes)


def recipe_for(model: str, name: str = OFFICIAL) -> Recipe:
    """Return a recipe of a model. Raises UnknownName, with the reason, for one that is not in the table."""
    recipes = recipes_of(model)
    if not recipes:
        reason = why_no_recipe(model)
        because = f" ({reason})" if reason else ""
        raise UnknownName(f"official recipe{because} of model", model, [key for key, _ in read_recipes()])
    if name not in recipes:
        raise UnknownName(f"recipe of {model}", name, recipes)
    return recipes[name]


def why_no_recipe(model: str) -> str:
    """Reason why a model has no official recipe, from its spec; "" for a model that states none or is unknown."""
    if model not in MODELS:
        return ""
    spec = MODELS[model]
    return "it is a demo model of this package" if spec.demo else spec.no_recipe


def recipes_of(model: str) -> dict[str, Recipe]:
    """Return the recipes of a model by name; empty when nothing is published."""
    return {name: recipe for (key, name), recipe in read_recipes().items() if key == model}


def official_facts(model: str) -> dict[str, str] | None:
    """Return the stated facts about the official samples of a model: `labels`, `uint8_rule`, `resize`, `images`.

    A key is absent where the source is silent; None stands for a model without a recipe.
    """
    recipe = recipes_of(model).get(OFFICIAL)
    if recipe is None:
        return None
    facts = {"labels": recipe.labels, "uint8_rule": recipe.uint8_rule, "resize": recipe.resize, "images": recipe.images}
    return {key: str(value) for key, value in facts.items() if value is not None}


def recipe_deviations(case: CaseConfig, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Compare a case with its recipe: key, such as "settings.cfg" -> {"used": value, "official": value}.

    `settings` are the complete sampling settings of the run, as JSON. Where the recipe is silent, the case is compared
    with the default, and the official value reads "not stated". Empty for a case without a recipe.
    """
    if case.recipe is None:
        return {}
    recipe = recipe_for(case.model, case.recipe)
    official = {**MODELS[case.model].settings.model_dump(mode="json"), **recipe.settings}
    pairs = {f"settings.{key}": (value, official.get(key)) for key, value in settings.items()}
    pairs["dtype"] = (case.dtype, recipe.dtype or DTYPE)
    if case.weights.startswith("random"):
        pairs["weights"] = (case.weights, "the released checkpoint")
    if case.quality is not None:
        quality = recipe.layer()["quality"]
        pairs |= {
            f"quality.{key}": (getattr(case.quality, key), quality[key])
            for key in ("images", "labels", "resize", "seed")
        }
        pairs["quality.reference"] = (Path(case.quality.reference).name, recipe.reference)
    return {
        key: {"used": used, "official": NOT_STATED if key in recipe.silent else value}
        for key, (used, value) in pairs.items()
        if used != value
    }


@cache
def read_recipes(path: Path = RECIPES_FILE) -> dict[tuple[str, str], Recipe]:
    """Read recipes by model and name, in the order of the file."""
    with path.open(encoding="utf-8", newline="") as file:
        recipes = [_recipe(row) for row in csv.DictReader(file)]
    return {(recipe.model, recipe.name): recipe for recipe in recipes}


def _recipe(row: Mapping[str, str]) -> Recipe:
    top_k, top_p = _number(row["top_k"]), _number(row["top_p"])
    settings: dict[str, Any] = {
        # Official top_k 0 and top_p 1 keep all tokens, as None does here.
        "cfg": _number(row["cfg"]),
        "top_k": int(top_k) if top_k else None,
        "top_p": None if top_p == 1 else top_p,
    }
    ours = {key.removeprefix(_SETTING): text for key, text in row.items() if key.startswith(_SETTING) and text}
    return Recipe(
        model=row["model"],
        name=row["recipe"],
        settings=settings | {key: parse_value(text) for key, text in ours.items()},
        temperature=_number(row["temperature"]),
        images=None if row["num_samples"] in ("", NOT_STATED) else int(row["num_samples"]),
        labels=row["our_labels"] or None,
        dtype=row["our_dtype"] or None,
        resize=row["our_resize"] or None,
        reference=row["reference"],
        stated_for=row["our_stated_for"],
        stated={key: text for key, text in row.items() if not key.startswith("our_")},
    )


def _number(text: str) -> float | None:
    """Return the number at the beginning of a cell; None for other text."""
    match = re.match(r"\d+(\.\d+)?", text)
    return float(match[0]) if match else None
