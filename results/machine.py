"""The machine in a record: its hardware and software, its load, and its speed at fixed work.

Units    _ns nanoseconds, _bytes bytes, _mhz megahertz, _c degrees Celsius, _w watts
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Part of a record: never edited, without unknown fields; numbers that are not finite are strings in JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class ControlTimes(Frozen):
    """Times of fixed work that no commit changes, in the order taken, warm-up not included."""

    gemm_ns: tuple[int, ...]
    """Matrix product: arithmetic."""
    copy_ns: tuple[int, ...]
    """Copy of one buffer to another: memory."""
    host_ns: tuple[int, ...]
    """Loop of the interpreter: one core."""


class Control(Frozen):
    """Speed of the machine around the timed calls. When it differs between two records, so do times of equal code."""

    work: str
    """Sizes, dtype, device and threads of the fixed work; only times of equal work are compared."""
    before: ControlTimes
    """Before warm-up."""
    after: ControlTimes
    """After the last timed call."""


class HostLoad(Frozen):
    """Load of the machine during warm-up and timed calls, in cores that were busy on average."""

    cores: int
    """Logical processors of the machine."""
    load_average: float
    """Load average over one minute, at the end."""
    other_cores: float
    """CPU time of all other processes over the wall time."""
    stolen_cores: float
    """CPU time that a hypervisor gave to other machines over the wall time."""
    slowdown: float | None = None
    """Slowest over fastest run of a fixed computation between the calls; 1 on a processor of constant speed."""


class Range(Frozen):
    """Smallest, mean and largest value of a series."""

    low: float
    mean: float
    high: float


class GpuSeries(Frozen):
    """A GPU over the samples of a case. None is unknown, or was never seen busy."""

    busy_samples: int
    """Samples with a utilisation of 50 % or more."""
    utilization: Range | None
    """Share of time with work on the GPU, in percent, while busy."""
    sm_clock_mhz: Range | None
    """While busy, as the other clock."""
    memory_clock_mhz: Range | None
    sm_clock_ratio: float | None
    """Mean clock while busy over the highest that the GPU has."""
    throttle_shares: dict[str, float]
    """Reason -> share of the busy samples with it, 0..1; reasons that never occurred are left out."""
    power_w: Range | None
    """Over all samples, as the temperature."""
    temperature_c: Range | None
    foreign_pids: tuple[int, ...]
    """Processes with work on the GPU that are not the case's."""


class CpuSeries(Frozen):
    """The processors over the samples of a case. None where the system does not tell."""

    clock_mhz: Range | None
    """Mean over the processors."""
    load_average: Range | None
    """Over one minute."""
    other_cores: Range | None
    """Cores that other processes than the case's and the harness's kept busy."""
    stolen_cores: Range | None
    """Cores that a hypervisor gave to other machines."""


class Telemetry(Frozen):
    """The machine during warm-up and timed calls, sampled by the process that started the case's."""

    interval_s: float
    samples: int
    clocks_locked: bool | Literal["denied"]
    """True while the GPU's clocks were held at its highest sustained one; denied when the driver refused."""
    cpu: CpuSeries
    gpu: GpuSeries | None
    """None on the CPU, and where the driver cannot be read."""


class Start(Frozen):
    """Way of a launch to its first images. It depends on what is in caches, so it is never gated."""

    import_ns: int | None
    """Libraries and harness; None in a worker forked from a process that had imported them."""
    load_weights_ns: int
    """Until all weights are in memory, digests included."""
    to_device_ns: int
    """Building the modules, and moving them to the device in their data type."""
    first_call_ns: int
    """First call of the sampler, that of the check of correctness, whose recorders slow it down; with compilation."""
    compile_ns: int | None
    """Triton's compiler, in the whole launch; None on the CPU."""
    capture_ns: int | None
    """Capture of graphs; None when nothing was captured."""
    page_cache: Literal["warm", "cold", "unknown"]
    """State of the weight files in the kernel's cache before they were read."""
    cache: Literal["cold", "warm"]
    """Folders of the compilers' caches at the start: empty, or not."""


class Gpu(Frozen):
    """GPU and its readings immediately after the timed calls; None is unknown."""

    name: str
    memory_bytes: int
    compute_capability: str
    driver: str | None
    sm_clock_mhz: int | None
    memory_clock_mhz: int | None
    temperature_c: int | None
    power_w: float | None
    throttle_reasons: tuple[str, ...]


class Environment(Frozen):
    """Machine and software that a case ran on."""

    arvbench_version: str
    source_sha256: str
    """Digest of the package's own source files."""
    method_sha256: str | None = None
    """Digest of the source files that take the numbers: equal for two versions of a sampler under one harness. None in
    records from before this field."""
    git_commit: str | None
    """None when the package does not run from a checkout."""
    git_dirty: bool | None
    python: str
    libraries: dict[str, str]
    """Distribution -> version."""
    os: str
    cpu: str
    cores: int
    memory_bytes: int
    gpu: Gpu | None
    """The GPU that the case ran on; None on the CPU."""
    cuda: str | None
    tf32: bool
    """True when fp32 matrix products or convolutions may run in TF32."""

    def identity(self) -> dict[str, Any]:
        """Return what of a machine and its software is part of a measurement's fingerprint."""
        gpu = self.gpu
        return machine_identity(
            self.source_sha256, self.libraries, self.cpu, self.cores, (gpu.name, gpu.driver) if gpu else None
        )


def machine_identity(
    source_sha256: str, libraries: dict[str, str], cpu: str, cores: int, gpu: tuple[str, str | None] | None
) -> dict[str, Any]:
    """Return the machine's part of a fingerprint; of a GPU its name and driver."""
    return {
        "source": source_sha256,
        "libraries": libraries,
        "cpu": cpu,
        "cores": cores,
        "gpu": list(gpu) if gpu else None,
    }
