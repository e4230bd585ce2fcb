"""Memory of one sampling call, and what each of its numbers counts.

Users argue about cache memory because nobody says what is counted: one run has five answers. `COUNTS` has one sentence
per number, `DEFINITIONS` the five answers; records, reports and docs take the words from here.

Units    _bytes bytes
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, NamedTuple

from pydantic import Field

from arvbench.results.machine import Frozen

MemorySource = Literal["cuda-allocator", "process-rss"]

_ALLOCATOR: Final = "torch's CUDA allocator"
_RESIDENT: Final = "the process's resident set"

COUNTS: Final[dict[str, dict[MemorySource, str]]] = {
    "weights_bytes": dict.fromkeys(
        ("cuda-allocator", "process-rss"),
        "Parameters and buffers of transformer and tokenizer as they lie in memory; a shared tensor counts once.",
    ),
    "cache_planned_bytes": dict.fromkeys(
        ("cuda-allocator", "process-rss"),
        "From the schedule, before the call: what the cache keeps for later steps, all layers, both guidance halves, "
        "its largest over the steps.",
    ),
    "cache_live_bytes": dict.fromkeys(
        ("cuda-allocator", "process-rss"),
        "By the cache's own count: what it keeps for later steps (keys and values, or a mixer's state or history), all "
        "layers, both guidance halves, its largest over the steps.",
    ),
    "cache_allocated_bytes": dict.fromkeys(
        ("cuda-allocator", "process-rss"),
        "Storage that the cache holds, filled or not, its largest over the steps.",
    ),
    "tokens_peak_bytes": {
        "cuda-allocator": f"Most that {_ALLOCATOR} gave out in the token loop, above what was given out before the "
        "call: cache and activations, without weights.",
        "process-rss": f"Largest size of {_RESIDENT} in the token loop, above that before the call: cache and "
        "activations, without weights; pages that a library had kept are missing.",
    },
    "decode_peak_bytes": {
        "cuda-allocator": f"Most that {_ALLOCATOR} gave out during decode, above what was given out before the call: "
        "the decoder's activations, and the cache, which is still held.",
        "process-rss": f"Largest size of {_RESIDENT} during decode, above that before the call: the decoder's "
        "activations, and the cache, which is still held.",
    },
    "peak_bytes": {
        "cuda-allocator": f"Most that {_ALLOCATOR} gave out at once: weights, cache, activations.",
        "process-rss": f"Largest size of {_RESIDENT}: weights, cache, activations, and the libraries.",
    },
    "reserved_bytes": {
        "cuda-allocator": f"Most that {_ALLOCATOR} took from the device, given out or not; what a call needs to fit.",
        "process-rss": "On the CPU no allocator keeps count.",
    },
    "device_used_bytes": {
        "cuda-allocator": "In use on the whole device after the call, as nvidia-smi shows it: other processes, the "
        "CUDA context and torch's unused blocks included.",
        "process-rss": "There is no device beside the machine.",
    },
    "machine_used_bytes": {
        "cuda-allocator": "The model is not in the machine's memory.",
        "process-rss": "In use on the whole machine after the call (MemTotal - MemAvailable), by other processes too.",
    },
}
"""Number of a record -> source of peaks -> one sentence: what it counts, or why it is absent."""
ABSENT: Final[dict[MemorySource, tuple[str, ...]]] = {
    "cuda-allocator": ("machine_used_bytes",),
    "process-rss": ("reserved_bytes", "device_used_bytes"),
}
"""Numbers that a source never has."""


class StepPeak(Frozen):
    """Tensors of one step, in bytes above those before the call."""

    step: int
    peak_bytes: int
    """Most at once in the step."""
    after_bytes: int
    """Held at its end: the cache, and what the loop keeps."""

    @property
    def transient_bytes(self) -> int:
        """Bytes that the step needed beyond those it left."""
        return self.peak_bytes - self.after_bytes


class TensorPeaks(Frozen):
    """Tensors of one call in a pass of their own, by the count of torch's allocator: exact, and equal in every run."""

    steps: tuple[StepPeak, ...]
    tokens_peak_bytes: int
    decode_peak_bytes: int
    snapshot: str | None = None
    """File with CUDA's allocator history of the step with the largest transient, relative to the records file."""

    @property
    def worst(self) -> StepPeak:
        """The step with the largest transient, the first of equal ones."""
        return max(self.steps, key=lambda step: (step.transient_bytes, -step.step))


class Memory(Frozen):
    """Memory by component; None is unknown on this machine. `COUNTS` says what each number counts."""

    weights_bytes: int
    cache_planned_bytes: int
    """Analytic peak of the live cache."""
    cache_live_bytes: int
    """Measured peak of the live cache."""
    cache_allocated_bytes: int
    tokens_peak_bytes: int | None
    """Peak during the autoregressive loop above the use before the call (cache and activations)."""
    decode_peak_bytes: int | None
    """Peak during decode above the use before the call."""
    source: MemorySource
    peak_bytes: int | None
    """Peak of the allocator (CUDA) or of the process's resident set (CPU)."""
    reserved_bytes: int | None
    """Reserved by the allocator; None on the CPU."""
    device_used_bytes: int | None
    """In use on the whole device, other processes included; None on the CPU."""
    machine_used_bytes: int | None = None
    """In use on the whole machine; None on CUDA, and in records from before this field."""
    counts: dict[str, str] = Field(default_factory=dict)
    """Number -> what it counts, in one sentence; empty in records from before this field."""
    absent: dict[str, str] = Field(default_factory=dict)
    """Number that this machine does not have -> reason."""
    allocator_settings: dict[str, str] = Field(default_factory=dict)
    """Variables that change how allocators behave -> value; those that are set."""
    allocation_retries: int | None = None
    """Times that CUDA's allocator freed its unused blocks and tried again, in this process; None on the CPU."""
    tensors: TensorPeaks | None = None
    """None where `trace_memory` was not asked for."""

    @property
    def call_peak_bytes(self) -> int | None:
        """Peak of the whole call above the use before it: token loop and decode."""
        peaks = [peak for peak in (self.tokens_peak_bytes, self.decode_peak_bytes) if peak is not None]
        return max(peaks, default=None)


class CacheStep(Frozen):
    """Cache after one step: keys and values, or in M-VAR the mixers' state or history."""

    step: int
    planned_bytes: int
    live_bytes: int
    allocated_bytes: int


class Definition(NamedTuple):
    """One answer to the question how much memory a call takes."""

    label: str
    meaning: str
    """Contents, in a few words."""
    of: Callable[[Memory], int | None]


DEFINITIONS: Final = (
    Definition("Live", "what the cache keeps for later steps", lambda memory: memory.cache_live_bytes),
    Definition("Allocated", "storage that the cache holds", lambda memory: memory.cache_allocated_bytes),
    Definition(
        "Peak, no decode",
        "most above idle in the token loop: cache, activations",
        lambda memory: memory.tokens_peak_bytes,
    ),
    Definition("Peak, decode", "the same with decode", lambda memory: memory.call_peak_bytes),
    Definition(
        "Reserved",
        "taken from the system with weights: CUDA's allocator, or a process's resident set with its libraries",
        lambda memory: memory.peak_bytes if memory.source == "process-rss" else memory.reserved_bytes,
    ),
    Definition(
        "Whole device",
        "in use on the GPU, or on the machine, other processes included",
        lambda memory: memory.device_used_bytes or memory.machine_used_bytes,
    ),
)
"""The same run by five definitions (the peak has two rows, for it is quoted with and without decode)."""


def counts_of(source: MemorySource) -> dict[str, str]:
    """Return what each number of a source counts."""
    return {name: texts[source] for name, texts in COUNTS.items() if name not in ABSENT[source]}


def absent_of(source: MemorySource) -> dict[str, str]:
    """Return the numbers that a source never has, with the reason."""
    return {name: COUNTS[name][source] for name in ABSENT[source]}
