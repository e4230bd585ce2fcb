"""Claims of publications as experiments: what was claimed, what we compute or measure for it, and what came of it.

An experiment compares one quantity of one or two cases. The claimed number carries its own tolerance: "44.2" means
44.15 to 44.25, "310" 305 to 315 (zeros at the end of a whole number do not count), "~20" 15 to 25 (half a unit of its
leading digit), ">2.5" more than 2.5, "3.2..4.1" from 3.15 to 4.15.

form        value = of; ratio = of / over; saved = 100 (1 - of / over), in percent; share = 100 of / over, in percent;
            exponent = log(of / over) / log(of's `along` / over's `along`), the power with which the quantity grows
verdict     reproduced: the outcome lies within the claimed number's own rounding, and the experiment decides the number
            direction only: it lies on the claimed side of "no change", without deciding the number or outside of it
            not reproduced: it decides the number, and lies on the other side
            needs weights, needs GPU, cannot be tested: what the experiment states for the case that it decides nothing
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from arvbench.errors import UserError, complaint
from arvbench.numbers import refuse_booleans
from arvbench.paths import printable, regular_file
from arvbench.results.moments import Moment

OUTCOMES_NAME: Final = "claims.json"
"""Name of the file of outcomes in a run folder."""
SHIPPED_OUTCOMES = Path(__file__).parent / "published" / "outcomes.json"
"""Outcomes that are part of this package."""
_MOST_BYTES = 2**24

Verdict = Literal["reproduced", "not reproduced", "direction only", "needs weights", "needs GPU", "cannot be tested"]
Undecided = Literal["needs weights", "needs GPU", "cannot be tested"]
Cause = Literal[
    "batch", "decode counted", "warm-up", "sync", "autocast", "reference", "cfg", "allocator", "hardware",
    "counting", "model", "schedule", "resolution",
]  # fmt: skip
"""Likely cause of a difference. "counting": another thing is counted, or it is not said what; "model": not the claim's
model or size; "schedule": other steps than the claim's."""
Planned = Literal[
    "steps", "scales", "tokens", "tokens_forwarded", "layer_tokens", "attention_pairs", "flops", "decode_flops",
    "call_flops", "cache_bytes", "parameters", "sampler_parameters", "image_px", "kept_bytes", "state_bytes",
    "memory_bytes",
]  # fmt: skip
"""Quantities of the plan of a call, which needs neither weights nor time. kept: weights and live cache at its peak;
state: most that a call holds beside its weights; memory: weights and state."""
Measured = Literal["images_ns", "tokens_ns", "decode_ns", "peak_bytes", "cache_live_bytes"]
"""Quantities of a record."""
Form = Literal["value", "ratio", "saved", "share", "exponent"]
Unit = Literal["", "x", "%", "M", "B", "GB", "px", "passes", "scales"]
SCALES: Final[dict[str, float]] = {"M": 1e6, "B": 1e9, "GB": 1e9}
"""Unit -> what one of it is, where that is not 1."""
NO_CHANGE: Final[dict[str, float]] = {"ratio": 1.0, "saved": 0.0, "share": 100.0}
"""Form -> the outcome that means no change; the others have no sides."""

_CLAIMED = re.compile(r"(?P<mark>[<>~]?)(?P<low>\d+(\.\d+)?)(\.\.(?P<high>\d+(\.\d+)?))?")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="before", check_fields=False)
    @classmethod
    def _no_booleans(cls, value: Any, info: Any) -> Any:
        return refuse_booleans(cls, value, info)


class Term(_Frozen):
    """A case of which a quantity is taken; what is not said is the model's official setting."""

    model: str = Field(min_length=1, max_length=100)
    method: str | None = Field(default=None, max_length=200)
    cache: str | None = Field(default=None, max_length=200)
    batch: int = Field(default=1, ge=1, le=1_000_000)
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    settings: dict[str, Any] = Field(default_factory=dict)

    def __str__(self) -> str:
        parts = [self.model, self.method or "", f"cache {self.cache}" if self.cache else ""]
        parts += [f"batch {self.batch}" if self.batch > 1 else "", self.dtype if self.dtype != "float32" else ""]
        parts += [f"{key}={value}" for key, value in self.settings.items()]
        return " ".join(part for part in parts if part)


class Experiment(_Frozen):
    """A part of a claim, and what decides it."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,21}$")]
    claim: str
    """Id of the published claim (results/published/claims.csv)."""
    says: str = Field(min_length=1, max_length=200)
    """The part of the claim, in words."""
    claimed: str = Field(default="", max_length=20)
    unit: Unit = ""
    kind: Literal["planned", "measured", "none"]
    """Work of this machine for it; "none": nothing."""
    decides: Literal["number", "direction"] = "number"
    """Power of the outcome: it is the claimed number, or only tells which side of no change that is on."""
    quantity: Planned | Measured | None = None
    form: Form = "value"
    of: Term | None = None
    over: Term | None = None
    along: Planned | None = None
    otherwise: Undecided
    """Verdict when nothing was run, or the outcome decides nothing."""
    cause: Cause | None = None
    """Likely cause, where the outcome differs."""
    because: str = Field(default="", max_length=400)
    """Why the outcome decides what it does, or why nothing can be run."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        """Refuse experiments whose parts do not fit together."""
        if self.claimed:
            claimed_range(self.claimed)
        if self.kind == "none":
            if self.quantity or self.of or self.over:
                raise ValueError("an experiment of kind none has no quantity and no cases")
            return self
        if self.quantity is None or self.of is None or not self.claimed:
            raise ValueError(f"an experiment of kind {self.kind} needs claimed, quantity and of")
        if self.quantity not in get_args(Planned if self.kind == "planned" else Measured):
            raise ValueError(f"{self.quantity} is not a quantity of kind {self.kind}")
        if (self.form == "value") == (self.over is not None):
            raise ValueError(f"form {self.form} takes {'no over' if self.over else 'over as well'}")
        if (self.form == "exponent") != (self.along is not None):
            raise ValueError("along is for form exponent, and for no other")
        if self.decides == "direction" and self.form not in NO_CHANGE:
            raise ValueError(f"form {self.form} has no sides, so it cannot decide a direction")
        return self

    @property
    def terms(self) -> tuple[Term, ...]:
        """Cases in the order of, over."""
        return tuple(term for term in (self.of, self.over) if term is not None)


class Provenance(_Frozen):
    """Where an outcome came from."""

    machine: str
    cores: int
    arvbench: str
    commit: str | None
    dirty: bool | None
    made: Moment


class Outcome(_Frozen):
    """An experiment, and what came out of it."""

    experiment: Experiment
    """As it was run: an outcome of another wording is not shown with a new one."""
    quantities: tuple[float, ...] = ()
    """Of the cases, in the order of, over."""
    value: float | None = None
    """In the unit of the claimed number; None when nothing was run."""
    note: str = ""
    """Why it has no value although it could be run."""
    record_ids: tuple[str, ...] = ()
    """Records behind a measured value."""
    provenance: Provenance | None = None
    """None when nothing was run."""

    @property
    def verdict(self) -> Verdict:
        return verdict_of(self.experiment, self.value)

    @property
    def cause(self) -> Cause | None:
        """Likely cause of a difference; None where there is none, or nothing was decided."""
        return self.experiment.cause if self.verdict in ("not reproduced", "direction only") else None


class Outcomes(_Frozen):
    """A file of outcomes."""

    schema_version: Literal[1] = 1
    outcomes: tuple[Outcome, ...]


def claimed_range(text: str) -> tuple[float, float]:
    """Return the least and the most that a claimed number means. Raises ValueError for text that is none."""
    found = _CLAIMED.fullmatch(text)
    if found is None or (found["mark"] and found["high"]):
        raise ValueError(f"claimed {text!r} is not a number such as 44.2, ~20, >2.5 or 10..12")
    low = float(found["low"])
    match found["mark"]:
        case ">":
            return low, math.inf
        case "<":
            return 0.0, low
        case "~":
            leading = 10.0 ** math.floor(math.log10(low)) if low else 1.0
            return low - leading / 2, low + leading / 2
    high = found["high"] or found["low"]
    return low - _rounding(found["low"]), float(high) + _rounding(high)


def _rounding(text: str) -> float:
    """Half a unit of the last digit that counts, and as much more as binary fractions need."""
    whole, point, fraction = text.partition(".")
    zeros = 0 if point else len(whole) - len(whole.rstrip("0"))
    return 0.5 * 10.0 ** (zeros - len(fraction)) + 1e-9


def outcome_value(experiment: Experiment, quantities: tuple[float, ...], along: tuple[float, ...] = ()) -> float:
    """Return the outcome in the unit of the claimed number. Raises UserError where a quantity is 0 or none."""
    if not all(math.isfinite(number) and number >= 0 for number in quantities):
        raise UserError(f"{experiment.id}: a quantity is no finite number: {quantities}")
    of, over = quantities[0], quantities[1] if len(quantities) > 1 else 1.0
    if over == 0 or (experiment.form == "exponent" and (of == 0 or min(along) <= 0 or along[0] == along[1])):
        raise UserError(f"{experiment.id}: its ratio has no value: {experiment.quantity} is {quantities}")
    match experiment.form:
        case "value":
            return of / SCALES.get(experiment.unit, 1.0)
        case "ratio":
            return of / over
        case "saved":
            return 100 * (1 - of / over)
        case "share":
            return 100 * of / over
        case "exponent":
            return math.log(of / over) / math.log(along[0] / along[1])


def verdict_of(experiment: Experiment, value: float | None) -> Verdict:
    """Return the verdict for an outcome; None stands for an experiment that was not run."""
    if value is None or experiment.kind == "none":
        return experiment.otherwise
    low, high = claimed_range(experiment.claimed)
    inside = low <= value <= high
    if experiment.decides == "number" and inside:
        return "reproduced"
    neutral = NO_CHANGE.get(experiment.form)
    if neutral is not None and _side(low, neutral) == _side(high, neutral) == _side(value, neutral) != 0:
        return "direction only"
    return "not reproduced" if experiment.decides == "number" else experiment.otherwise


def _side(value: float, neutral: float) -> int:
    return (value > neutral) - (value < neutral)


def read_outcomes(path: Path) -> Outcomes:
    """Read a file of outcomes. Raises UserError for one that is missing, too large, damaged or of another schema."""
    regular_file(path, most_bytes=_MOST_BYTES)
    try:
        return Outcomes.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {printable(path)}: {error.strerror or error}") from error
    except ValidationError as error:
        raise UserError(f"{printable(path)} is not a file of outcomes: {complaint(error, {})}") from error


def newest_outcomes(experiments: Iterable[Experiment], *files: Outcomes) -> tuple[Outcome, ...]:
    """Return one outcome per experiment: of the last file that ran it as it is worded now, else one without a value."""
    kept = {made.experiment.id: made for file in files for made in file.outcomes if made.provenance is not None}
    chosen = ((experiment, kept.get(experiment.id)) for experiment in experiments)
    return tuple(
        made if made is not None and made.experiment == experiment else Outcome(experiment=experiment)
        for experiment, made in chosen
    )
