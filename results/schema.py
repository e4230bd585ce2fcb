"""The record of one launch of a case: one line of JSON, written once and never edited.

A record keeps raw samples and their environment. Medians, intervals and rates are computed from it in
`results/statistics.py`, and can be computed again.

Units    _ns nanoseconds, _bytes bytes, _px pixels, _mhz megahertz, _c degrees Celsius, _w watts
Schema   1: first version. Raise SCHEMA_VERSION when a field changes its meaning, and say so here.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from arvbench.numbers import refuse_booleans
from arvbench.results.capacity import Capacity as Capacity
from arvbench.results.ceilings import Ceilings as Ceilings
from arvbench.results.drift import Drift as Drift
from arvbench.results.energy import Energy as Energy
from arvbench.results.energy import EnergyRequest as EnergyRequest
from arvbench.results.machine import Control as Control
from arvbench.results.machine import Environment as Environment
from arvbench.results.machine import Frozen
from arvbench.results.machine import Gpu as Gpu
from arvbench.results.machine import HostLoad as HostLoad
from arvbench.results.machine import Start as Start
from arvbench.results.machine import Telemetry as Telemetry
from arvbench.results.memory import CacheStep as CacheStep
from arvbench.results.memory import Memory as Memory
from arvbench.results.moments import Moment
from arvbench.results.search_request import SearchRequest as SearchRequest
from arvbench.results.timing import Timing as Timing
from arvbench.results.timing import WarmUp as WarmUp
from arvbench.results.work import CaseWork as CaseWork

SCHEMA_VERSION: Final = 1
DRIFT_IMAGES: Final = 64
_NEWER: Final = dict.fromkeys(("capacity", "energy", "method", "search")) | {"trace_memory": False, "kernels": {}}
"""Fields of a case that earlier versions did not have, with their defaults."""


class Status(StrEnum):
    """End of a case."""

    OK = "ok"
    INCORRECT = "incorrect"
    OOM = "oom"
    TIMEOUT = "timeout"
    ERROR = "error"
    UNSUPPORTED = "unsupported"
    SKIPPED = "skipped"


class _Request(Frozen):
    """Settings that users write."""

    @field_validator("*", mode="before")
    @classmethod
    def _no_booleans(cls, value: Any, info: ValidationInfo) -> Any:
        return refuse_booleans(cls, value, info)


class QualityRequest(_Request):
    """Request for quality numbers of generated images."""

    protocols: tuple[str, ...] = Field(min_length=1)
    """Names in the protocol table, such as "adm-v1" or "digits-cnn"; one pass over the images serves all."""
    reference: str
    """Name of a reference data set ("digits"), a reference file (.npz) or a folder of images."""
    images: int = Field(ge=2, le=100_000_000)
    metrics: tuple[str, ...] = ()
    """Metrics of those protocols; empty means all of them."""
    seed: int = Field(default=0, ge=-(2**63), lt=2**63)
    """Run seed of the per-image noise."""
    labels: Literal["balanced", "balanced-shuffled", "uniform"] = "balanced"
    """Classes of the images: equal counts in order, equal counts shuffled by `seed`, or drawn uniformly by `seed`."""
    resize: str | None = None
    """Resize of the decoded image before it becomes bytes, such as "bicubic:256"; None evaluates it unresized."""
    bootstrap: int | None = Field(default=None, ge=0, le=1_000_000)
    """Interval of a Frechet distance: None for the jackknife, N >= 2 for a bootstrap of N replicates, 0 for none."""
    workers: int = Field(default=1, ge=1, le=4096)
    """Processes that share the images: one per CUDA device, or with one thread each on a CPU; the numbers do not depend
    on it."""

    @model_validator(mode="before")
    @classmethod
    def _read_older_names(cls, given: Any) -> Any:
        """Translate requests of older records: they name an extractor instead of protocols, and torch-fidelity's
        "prc" for precision and recall.
        """
        if not isinstance(given, dict):
            return given
        given = dict(given)
        if "extractor" in given:
            name = given.pop("extractor")
            given.setdefault("protocols", ("torch-fidelity" if name == "inception" else name,))
        if isinstance(metrics := given.get("metrics"), list | tuple) and all(isinstance(name, str) for name in metrics):
            named = [part for metric in metrics for part in (("precision", "recall") if metric == "prc" else (metric,))]
            given["metrics"] = tuple(dict.fromkeys(named))
        return given


class CapacityRequest(_Request):
    """Request for the largest batch that runs within the memory, by doubling and bisection."""

    most: int = Field(default=1024, ge=1, le=1_000_000)
    """Largest batch to try; a search that gets there has found no limit."""


class CaseConfig(_Request):
    """One measurement. Every field is part of the record; none is read from globals."""

    model: str
    weights: str
    """"demo", "hub", "random:SEED" or a path."""
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """In half precision, weights, activations and the residual stream all have this type, except for parts that the
    family keeps in float32 (output head, quantizer, Mamba's decays, the token-grid models' tokenizer). VAR's official
    code runs autocast over float32 weights instead.
    """
    backend: str = "optimized"
    """Name in the table of backends (arvbench.kernels.backends)."""
    kernels: dict[str, str] = Field(default_factory=dict)
    """Operation -> its implementation in place of the backend's: "torch", "triton" or "compiled" (torch.compile of the
    reference). Written only where there is one."""
    cache: str | None = None
    """Cache policy, with its budget and options for a lossy one ("window:4"); None leaves it to the backend, and the
    record's `setup.cache_policy` names it."""
    method: str | None = None
    """Method over the schedule, such as "code:6,refiner=var-d16" (arvbench.adapters.methods.request); None runs the
    model as it is. Written only where there is one."""
    batch: int = Field(default=1, ge=1, le=1_000_000)
    recipe: str | None = None
    """Official recipe that the case began with, such as "official" (arvbench.harness.suites.recipes).

    The other fields hold the recipe's values, including overrides: this name only serves comparison.
    """
    settings: dict[str, Any] = Field(default_factory=dict)
    """Overrides of the model's official sampling settings."""
    launches: int = Field(default=1, ge=1, le=1_000)
    """Processes that measure the case, one after another: a record each. Quality and the picture of samples, which do
    not depend on the process, are made by the first alone."""
    repeats: int = Field(default=5, ge=1, le=1_000_000)
    """Timed calls of a launch, after warm-up."""
    max_warmup: int = Field(default=10, ge=1, le=1_000_000)
    """Limit of warm-up calls; beyond it, times are taken and marked unsteady."""
    threads: int | None = Field(default=None, ge=1, le=4096)
    """CPU threads of torch; None takes the number of physical cores."""
    timeout_s: float = Field(default=1800, gt=0, le=31_536_000)
    """Limit of one launch; a year at most."""
    memory_limit_bytes: int | None = Field(default=None, gt=0, le=2**60)
    """Limit of the worker's host memory (CPU) or device memory (CUDA); None sets no limit."""
    quality: QualityRequest | None = None
    sample_sheet: int = Field(default=0, ge=0, le=1_000)
    """Images per class in the picture of samples; 0 makes no picture."""
    drift_images: int = Field(default=DRIFT_IMAGES, ge=0, le=100_000)
    """Images on which a lossy case is compared with an exact one (below 2: none); written where not the default."""
    trace_memory: bool = False
    """Count the tensors of every step in a pass of its own: what concatenation and activations need for a moment.
    Written only where it is true."""
    capacity: CapacityRequest | None = None
    """Search for the largest batch, from `batch` on; written only where it is asked for."""
    energy: EnergyRequest | None = None
    """Written only where it is asked for, as the next."""
    search: SearchRequest | None = None
    """Search that this case is a try of; the case holds the values of that try."""

    @model_validator(mode="after")
    def _can_be_searched(self) -> CaseConfig:
        if self.capacity is None:
            return self
        if self.quality is not None or self.sample_sheet or self.search is not None:
            raise ValueError("capacity: a search for the largest batch has no quality, no sample_sheet and no search")
        if self.batch > self.capacity.most:
            raise ValueError(f"capacity: the search begins at batch {self.batch}, above most: {self.capacity.most}")
        if self.memory_limit_bytes is None and self.device.partition(":")[0] == "cpu":
            raise ValueError("capacity on the CPU needs memory_limit_bytes: the search would take the whole machine")
        return self

    @model_serializer(mode="wrap")
    def _without_newer_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out fields that earlier versions did not have: names and fingerprints of their cases stay."""
        written: dict[str, Any] = dump(self)
        if written.get("drift_images") == DRIFT_IMAGES:
            del written["drift_images"]
        for name, default in _NEWER.items():
            if name in written and written[name] == default:
                del written[name]
        return written


class StepPlan(Frozen):
    """One step of the analytic schedule (meanings in arvbench.adapters.schedule.Step)."""

    index: int
    name: str
    kind: str
    new_tokens: int
    context_tokens: int
    cached_tokens: int
    rows: int
    inner_passes: int = 1
    flops: int
    fp32_flops: int = 0
    """0 in records from before this field, as the next."""
    launches: int = 0
    bytes_moved: int
    cache_bytes: int


class Setup(Frozen):
    """Setup that ran: identity of model and weights, and every automatic choice."""

    model: str
    family: str
    image_px: int
    """Height of the images."""
    image_width_px: int | None = None
    """None: equal to the height."""
    transformer_parameters: int
    tokenizer_parameters: int
    weights_source: str
    weights_random: bool
    weights_sha256: dict[str, str]
    """File name -> sha256; empty for random weights."""
    settings: dict[str, Any]
    """Complete sampling settings after overrides."""
    settings_source: str
    """Source of the official settings."""
    settings_deviations: dict[str, Any]
    """Overrides that differ from the official settings."""
    recipe: str | None = None
    """Official recipe that the case began with; None for a case without one."""
    recipe_deviations: dict[str, Any] = Field(default_factory=dict)
    """Deviations from the recipe: key, such as "quality.labels" -> {"used": value, "official": value}."""
    recipe_notes: tuple[str, ...] = ()
    """Deviations that no setting can remove, and the defaults used where the source is silent."""
    cache_policy: str
    lossy: tuple[str, ...] | None = None
    """Parts of the case that draw other tokens than float32, an exact cache and no method would, such as "cache int8";
    empty for an exact case, None in records from before this field."""
    kernels: dict[str, str]
    """Operation -> implementation that ran ("torch" or "triton")."""
    attention: str
    """Attention kernel that ran, as named by the dispatcher."""
    threads: int
    plan: tuple[StepPlan, ...]
    decode_flops: int
    decode_bytes: int | None = None
    """Weights of the decoder and images, each once; None where unknown, as the next, and in older records."""
    decode_dtype: str | None = None


class Correctness(Frozen):
    """Comparison made before any time is taken. A case that fails it has no speed."""

    judge: str
    """Standard of the comparison: "reference backend" or "teacher-forced pass"."""
    images: int
    max_abs_diff: float
    """Largest difference of guided logits on the judge's own token path."""
    tolerance: float
    equal_tokens: float | None
    """Fraction of equal tokens, drawn with shared noise along the judge's path, 0..1; None for latents."""
    required_equal_tokens: float | None
    image_diff: float | None = None
    """Largest mean absolute difference of an image's floats; None under the other judge, and in older records."""
    passed: bool


class Quality(Frozen):
    """One quality number; numbers with different protocol ids are never compared."""

    metric: str
    value: float
    spread: float | None = None
    """Standard deviation over splits or subsets; None for metrics without them."""
    interval: tuple[float, float] | None = None
    """95 % interval; None when it is unknown."""
    protocol: str
    """Description of protocol, extractor, reference and library."""
    protocol_name: str | None = None
    """Name in the protocol table, such as "adm-v1"; None in records from before this field."""
    protocol_id: str
    """Hash of everything that affects the number."""
    n_samples: int
    detail: dict[str, Any] = Field(default_factory=dict)
    """Details that do not change the number: clamped mass, values by class, parameters."""
    note: str = ""


class Finding(Frozen):
    """Caveat about the samples or the reference behind the numbers."""

    code: str
    """Kind of finding, such as "few-samples" or "duplicates"."""
    severity: Literal["note", "warning"]
    text: str
    """Finding in words, and its consequence for the numbers."""


class SampleSheet(Frozen):
    """A PNG of generated images beside the records: one row per class."""

    path: str
    """Relative to the records file."""
    sha256: str
    classes: tuple[int, ...]
    columns: int
    image_px: int


class Measured(Frozen):
    status: Literal[Status.OK] = Status.OK
    setup: Setup
    correctness: Correctness
    drift: Drift | None = None
    """Of a lossy cache policy, method or dtype; None for an exact case, and in records from before this field."""
    drift_note: str = ""
    """Reason why a lossy case has no drift."""
    work: CaseWork | None = None
    """None for a family that does not state it, and in records from before this field."""
    warmup: WarmUp
    host_load: HostLoad | None = None
    """None where the system does not tell, and in records from before this field."""
    control: Control | None = None
    """None when no probe was asked for, and in records from before this field."""
    start: Start | None = None
    """None in records from before this field."""
    ceilings: Ceilings | None = None
    """None when there was no room to measure them, and in records from before this field."""
    telemetry: Telemetry | None = None
    """None when the calls were too short for a sample, and in records from before this field."""
    timings: tuple[Timing, ...]
    memory: Memory
    cache: tuple[CacheStep, ...]
    capacity: Capacity | None = None
    """Search for the largest batch; the other numbers are those of the batch that it began with."""
    energy: Energy | None = None
    """None when it was not asked for, and in records from before this field."""
    quality: tuple[Quality, ...] = ()
    findings: tuple[Finding, ...] = ()
    """Findings about the images behind the quality numbers."""
    sample_sheet: SampleSheet | None = None


class Incorrect(Frozen):
    """Backend that disagrees with its judge: there is no speed to report."""

    status: Literal[Status.INCORRECT] = Status.INCORRECT
    setup: Setup
    correctness: Correctness


class Failed(Frozen):
    """Case without numbers, and the reason."""

    status: Literal[Status.OOM, Status.TIMEOUT, Status.ERROR, Status.UNSUPPORTED, Status.SKIPPED]
    reason: str
    """One line."""
    detail: str = ""
    """Traceback or the end of the worker's output."""


Outcome = Annotated[Measured | Incorrect | Failed, Field(discriminator="status")]


class Record(Frozen):
    """One finished launch of a case."""

    schema_version: Literal[1] = SCHEMA_VERSION
    record_id: str
    suite: str
    case_id: str
    """Human-readable name of the case, unique in its suite."""
    launch: int = Field(default=1, ge=1)
    """Place among the launches of the case, from 1; 1 in records from before this field."""
    fingerprint: str
    """Hash of case, launch, source and machine: a rerun skips a launch whose fingerprint is already recorded."""
    started: Moment
    finished: Moment
    case: CaseConfig
    environment: Environment
    outcome: Outcome

    @property
    def status(self) -> Status:
        return Status(self.outcome.status)
