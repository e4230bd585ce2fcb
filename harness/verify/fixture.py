"""Fixtures: outputs of the official code on a small model, in two kinds of storage.

full     <case>.json + <case>.safetensors with every weight ("model.", "vae."), input ("in.") and output ("out.")
recipe   the same, but weights are generated from their names and outputs are sub-sampled (every stride-th element)

Shapes   B images, L tokens of all scales, S scales, V codebook entries
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from arvbench.errors import UserError
from arvbench.harness.verify.generated_weights import recipe_v1


class FixtureError(UserError):
    """A fixture that is missing, damaged, or asks for what is not implemented."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One recorded output against ours. `passed` is None when it cannot be compared here; `note` says why."""

    fixture: str
    check: str
    max_abs_diff: float | None
    tolerance: float
    passed: bool | None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """One recorded output: `values` are every `stride`-th element of a tensor of `shape`; integers are exact."""

    name: str
    values: Tensor
    shape: tuple[int, ...]
    stride: int = 1
    tolerance: float = 0.0
    ignore: Tensor | None = None
    """Rows to leave out (bool, leading dimensions of `shape`): the recorded value is implementation-defined there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixture:
    """A fixture of either storage, read and checked."""

    name: str
    kind: str
    """What replays it: a family, or "sampler_unit"."""
    description: Mapping[str, Any]
    """The JSON part."""
    model_args: Mapping[str, Any] = field(default_factory=dict)
    tokenizer_args: Mapping[str, Any] = field(default_factory=dict)
    runs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Run name -> sampling arguments under their official names."""
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    """Full names ("model.", "vae.") -> tensors; for recipes the parameters only."""
    constructed: frozenset[str] = frozenset()
    """Full names of buffers that the constructor makes; empty when `weights` holds them."""
    expectations: tuple[Expectation, ...] = ()
    rng_probe: Mapping[str, tuple[int, Tensor]] = field(default_factory=dict)
    """Run name -> (seed, first Exp(1) variates of torch's CPU generator with that seed where it was recorded)."""

    def skip_reason(self, name: str) -> str:
        """Why the output `name` cannot be compared on this platform, or an empty string."""
        probe = self.rng_probe.get(name.split(".")[0])
        if probe is not None and not _same_stream(*probe):
            return "this build of torch draws another exponential stream than the recorded one"
        return ""


def read_fixture(path: Path) -> Fixture:
    """Read `path` (.json) and the .safetensors it names. Raises FixtureError."""
    description = _read_json(path)
    stored = _read_stored(path, description)
    try:
        if description.get("case") == "sampler_unit":
            return _read_sampler_unit(description, stored)
        if str(description.get("format", "")).startswith("recipe-fixture"):
            return _read_recipe(description, stored)
        if "model_args" in description:
            return _read_full(description, stored)
        if "gpt_config" in description:
            return _read_token_grid(description, stored)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError, RuntimeError) as error:
        raise FixtureError(f"{path} is not a complete fixture: {type(error).__name__} {error}") from error
    raise FixtureError(f"{path} is neither a full nor a recipe fixture")


def compare(fixture: Fixture, produced: Mapping[str, Tensor]) -> list[Check]:
    """One check per recorded output; an output that was not produced is a failure, never left out."""
    return [_check(fixture, expected, produced.get(expected.name)) for expected in fixture.expectations]


def _check(fixture: Fixture, expected: Expectation, ours: Tensor | None) -> Check:
    def result(passed: bool | None, diff: float | None = None, note: str = "") -> Check:
        return Check(
            fixture=fixture.name,
            check=expected.name,
            max_abs_diff=diff,
            tolerance=expected.tolerance,
            passed=passed,
            note=note,
        )

    if reason := fixture.skip_reason(expected.name):
        return result(None, note=reason)
    if ours is None:
        return result(False, note="not produced")
    if tuple(ours.shape) != expected.shape:
        return result(False, note=f"shape {tuple(ours.shape)} instead of {expected.shape}")
    ours_sampled = ours.detach().cpu().double().reshape(-1)[:: expected.stride]
    difference = (ours_sampled - expected.values.double().reshape(-1)).abs()
    if expected.ignore is not None:
        difference = difference.view(expected.shape)[~expected.ignore]
    worst = float(difference.max())
    if not math.isfinite(worst):
        return result(False, note="not finite")
    return result(worst <= expected.tolerance, worst)


def _same_stream(seed: int, recorded: Tensor) -> bool:
    ours = torch.empty(len(recorded)).exponential_(1, generator=torch.Generator().manual_seed(seed))
    return torch.equal(ours, recorded.float())


def _read_json(path: Path) -> dict[str, Any]:
    try:
        description = json.loads(path.read_text())
    except OSError as error:
        raise FixtureError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise FixtureError(f"{path} is not JSON: {error}") from error
    if not isinstance(description, dict):
        raise FixtureError(f"{path} is not a fixture: its JSON is no object")
    return description


def _read_stored(path: Path, description: Mapping[str, Any]) -> dict[str, Tensor]:
    stored = path.with_name(Path(str(description.get("safetensors", path.stem + ".safetensors"))).name)
    try:
        content = stored.read_bytes()
    except OSError as error:
        raise FixtureError(f"cannot read {stored}, which {path.name} names: {error.strerror}") from error
    expected = description.get("safetensors_sha256")
    if expected is not None and hashlib.sha256(content).hexdigest() != expected:
        raise FixtureError(f"{stored} is not the file that {path.name} was made with: its sha256 differs")
    try:
        return load_file(stored)
    except SafetensorError as error:
        raise FixtureError(f"{stored} is not a safetensors file: {error}") from error


# Tolerances for fp32 on any CPU (those the fixtures were published with). The first match of a name's end wins.
_FULL_TOLERANCES = (
    ("smooth.f_hat", 2e-2),
    ("logits_cfg", 3e-4),
    ("", 1e-4),
)
# Before the first tokens fill it, M-VAR's state is nearly empty, and the RMSNorm after it amplifies rounding.
_MVAR_LOGITS = ("logits_pre_cfg", "logits_cfg", "tf.logits", "tf.logits_uncond")
_FAMILY_TOLERANCES = {"mvar": (*((end, 2e-3) for end in _MVAR_LOGITS), *_FULL_TOLERANCES)}


def _read_full(description: dict[str, Any], stored: dict[str, Tensor]) -> Fixture:
    outputs = {name.removeprefix("out."): t for name, t in stored.items() if name.startswith("out.")}
    probe = outputs.pop("rng_probe.exponential", None)
    runs = {name: run for name, run in description["sampling"].items() if isinstance(run, dict)}
    # Labels that the model drew are outputs; HMAR's descriptions of runs leave out that they were not given.
    runs = {name: run | {"label_B": None} if f"{name}.labels" in outputs else run for name, run in runs.items()}
    sampled = {name: run for name, run in runs.items() if run["top_k"] != 1}
    family = description["family"]
    return Fixture(
        name=description["case"],
        kind=family,
        description=description,
        model_args=description["model_args"],
        tokenizer_args=description["vae_args"],
        runs=runs,
        inputs={name.removeprefix("in."): t for name, t in stored.items() if name.startswith("in.")},
        weights={name: t for name, t in stored.items() if name.startswith(("model.", "vae."))},
        expectations=tuple(
            Expectation(name=name, values=t, shape=tuple(t.shape), tolerance=_full_tolerance(family, name, t))
            for name, t in outputs.items()
        ),
        # One probe stands for all seeded runs of a case; its seed is that of the first of them.
        rng_probe={} if probe is None else dict.fromkeys(sampled, (next(iter(sampled.values()))["g_seed"], probe)),
    )


def _full_tolerance(family: str, name: str, values: Tensor) -> float:
    if not values.is_floating_point():
        return 0.0
    stem = ".".join(part for part in name.split(".") if not part.isdigit() and part != "last")
    tolerances = _FAMILY_TOLERANCES.get(family, _FULL_TOLERANCES)
    return next(tolerance for end, tolerance in tolerances if stem.endswith(end))


# Published as 2e-4 + 1e-4 of the value for logits and 2e-3 for images; what is absolute here is tighter for images. A
# byte may differ by one where a float lies on a boundary.
_TOKEN_GRID_TOLERANCES = (
    ("_u8", 1.0),
    ("logits_post_cfg", 1e-3),
    ("probs", 3e-5),
    ("rope_table", 1e-6),
    ("", 2e-4),
)


def _read_token_grid(description: dict[str, Any], stored: dict[str, Tensor]) -> Fixture:
    def tolerance(name: str, values: Tensor) -> float:
        if not values.is_floating_point() and not name.endswith("_u8"):
            return 0.0
        return next(tolerance for end, tolerance in _TOKEN_GRID_TOLERANCES if name.endswith(end))

    outputs = {name.removeprefix("out."): t for name, t in stored.items() if name.startswith("out.")}
    inputs = {name.removeprefix("in."): t for name, t in stored.items() if name.startswith("in.")}
    return Fixture(
        name=description["case"],
        kind=description["family"],
        description=description,
        model_args=description["gpt_config"],
        tokenizer_args=description["vq_config"],
        runs={run["name"]: run for run in description["runs"]},
        inputs={_TOKEN_GRID_INPUTS.get(name, name): t for name, t in inputs.items()},
        weights={name: t for name, t in stored.items() if name.startswith(("model.", "vae."))},
        expectations=tuple(
            Expectation(name=name, values=t, shape=tuple(t.shape), tolerance=tolerance(name, t))
            for name, t in outputs.items()
        ),
    )


_TOKEN_GRID_INPUTS = {"class_ids": "labels", "tf_tokens": "tf_ids"}
"""Their names -> those of the other fixtures."""


def _read_recipe(description: dict[str, Any], stored: dict[str, Tensor]) -> Fixture:
    seed_string = description["seed_string"]
    weights = {
        name: torch.from_numpy(recipe_v1(seed_string, name, *entry)) for name, entry in description["params"].items()
    }
    for probe in description["recipe_check"]:
        values = weights[probe["name"]].numpy().astype("<f4")
        if hashlib.sha256(values.tobytes()).hexdigest() != probe["sha256_le_f32"]:
            raise FixtureError(f"the recipe gives other values for {probe['name']} here: NumPy's generator differs")
    config = description["config"]
    return Fixture(
        name=description["case"],
        kind=description["family"],
        description=description,
        model_args=config.get("model", config.get("gpt")),
        tokenizer_args=config.get("vae", config.get("vq")),
        runs=description["runs"],
        inputs=_recipe_inputs(description),
        weights=weights,
        constructed=frozenset(description["constructed"]),
        expectations=(*_recipe_integers(description), *_recipe_floats(description, stored)),
        rng_probe={
            run: (probe.get("g_seed", probe.get("torch_seed")), torch.tensor(probe["exponential8"]))
            for run, probe in description["rng_probe"].items()
        },
    )


def _recipe_inputs(description: Mapping[str, Any]) -> dict[str, Tensor]:
    inputs = description["inputs"]
    low, high = (recipe_v1(description["seed_string"], *inputs["image"][part]) for part in ("lo", "hi"))
    factor = high.shape[-1] // low.shape[-1]
    image = np.repeat(np.repeat(low, factor, axis=2), factor, axis=3) + high
    tf_ids = inputs.get("tf_ids") or inputs.get("tf_tokens")
    # A fixture without a teacher-forced pass has no ids of its own: those of the image will do.
    tf_ids = tf_ids or description["expected"][inputs.get("tf_ids_from", "vae.enc_ids").removeprefix("expected ")]
    masked = {"mp.idx_to_mask": torch.tensor(inputs["mp_idx_to_mask"])} if "mp_idx_to_mask" in inputs else {}
    return {
        "image": torch.from_numpy(image),
        "labels": torch.tensor(inputs["labels"]),
        "tf_ids": torch.tensor(tf_ids),
        **masked,
    }


def _recipe_integers(description: Mapping[str, Any]) -> Iterator[Expectation]:
    for name, numbers in description["expected"].items():
        for full_name, values in _mask_sets(name, numbers) if name.endswith(".mask_idx") else [(name, numbers)]:
            tensor = torch.as_tensor(values)
            yield Expectation(name=full_name, values=tensor, shape=tuple(tensor.shape))


def _mask_sets(name: str, steps: list[Any]) -> Iterator[tuple[str, Tensor]]:
    """Masked positions of every refinement, as sets: equal confidences have no order that one could expect."""
    for scale, number, positions in steps:
        yield f"{name}.{scale}.{number}.set", torch.tensor(positions).sort(dim=1).values


def _recipe_floats(description: Mapping[str, Any], stored: Mapping[str, Tensor]) -> Iterator[Expectation]:
    for name, meta in description["tensors"].items():
        shape = tuple(meta["full_shape"])
        if len(stored[name]) != -(-math.prod(shape) // meta["stride"]):
            raise ValueError(f"{name}: {len(stored[name])} values are not every {meta['stride']}th of {shape}")
        # One name for two things: f_hat after every scale (stacked), or only the last.
        yield Expectation(
            name=f"{name}.all" if name.endswith(".f_hat") and len(shape) == 5 else name,
            values=stored[name],
            shape=shape,
            stride=meta["stride"],
            tolerance=meta["atol"],
        )


_SAMPLER_UNIT_PROBE_SEED = 5000
"""Stated in the description of the stored probe."""


def _read_sampler_unit(description: dict[str, Any], stored: dict[str, Tensor]) -> Fixture:
    outputs = {name.removeprefix("out."): t for name, t in stored.items() if name.startswith("out.")}
    probe = outputs.pop("rng_probe.exponential")
    expectations = []
    for name, values in outputs.items():
        if name.endswith(".ambiguous"):
            continue
        ties = outputs.get(f"{name.rsplit('.', 1)[0]}.ambiguous")
        expectations.append(
            Expectation(
                name=name,
                values=values,
                shape=tuple(values.shape),
                tolerance=1e-5 if values.is_floating_point() else 0.0,
                ignore=ties if name.endswith((".kept", ".ids")) else None,
            )
        )
    return Fixture(
        name=description["case"],
        kind="sampler_unit",
        description=description,
        inputs={name.removeprefix("in."): t for name, t in stored.items() if name.startswith("in.")},
        expectations=tuple(expectations),
        rng_probe={name.split(".")[0]: (_SAMPLER_UNIT_PROBE_SEED, probe) for name in outputs},
    )
