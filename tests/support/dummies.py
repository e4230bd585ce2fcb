"""A newcomer's first try of every kind that CONTRIBUTING.md says how to add: as short as that kind allows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from arvbench.adapters.cache.grow import GrowCache
from arvbench.adapters.var import DEMO
from arvbench.harness.jobs import EventListener, Job, Result
from arvbench.harness.machine.environment import read_environment
from arvbench.harness.quality.detectors.evidence import Evidence
from arvbench.harness.quality.extractors.extractor import Extractor, ExtractorFiles
from arvbench.harness.quality.protocols.protocol import EvaluationProtocol, Metric, MetricInputs, MetricValue
from arvbench.kernels.backends import Backend
from arvbench.kernels.contract import KernelSpec, Limits, Tol, Workload
from arvbench.results.schema import Environment, Failed, Finding, Status

MODEL = replace(DEMO, name="dummy-model", demo=False, no_recipe="nobody has published it")


class DummyCache(GrowCache):
    """Keeps keys and values as `grow` does, under another name."""

    policy = "dummy-cache"


def dummy_kernel(x_BC: Tensor) -> Tensor:
    """Return twice the input."""
    return x_BC * 2


def _kernel_inputs(
    shape: Any, *, dtype: torch.dtype, device: torch.device, generator: torch.Generator
) -> dict[str, Any]:
    return {"x_BC": torch.randn(shape["B"], shape["C"], generator=generator).to(device, dtype)}


KERNEL = KernelSpec(
    name="dummy_kernel",
    reference="dummies:dummy_kernel",
    fast="dummies:dummy_kernel",
    make_inputs=_kernel_inputs,
    workloads={"small": Workload(shape={"B": 2, "C": 3}, interpret=True)},
    tolerance=dict.fromkeys((torch.float32, torch.bfloat16, torch.float16), Tol(0, 0)),
    flops=lambda shape: shape["B"] * shape["C"],
    bytes_moved=lambda shape, itemsize: 2 * shape["B"] * shape["C"] * itemsize,
    limits=Limits(registers=64, shared_bytes=0),
)
BACKEND = Backend(cuda="torch", elsewhere="torch", official=False)


def load_extractor(_extractor_files: ExtractorFiles, device: torch.device) -> Extractor:
    """Return the mean colour of an image as its features."""
    return Extractor(
        name="dummy-extractor",
        network=lambda images_B3HW: {"colour": images_B3HW.float().mean(dim=(2, 3))},
        layers={"colour": 3},
        device=device,
        sha256="0" * 64,
        preprocessing="none",
    )


def _brightness(inputs: MetricInputs, layer: str) -> MetricValue:
    return MetricValue(value=float(inputs.samples.features(layer).mean()))


METRIC = Metric("dummy-metric", "colour", compute=_brightness)
PROTOCOL = EvaluationProtocol(name="dummy-protocol", extractor="dummy-extractor", metrics=(METRIC,))


def detect(evidence: Evidence) -> Iterator[Finding]:
    """Find that samples exist."""
    yield Finding(code="dummy-finding", severity="note", text=f"{evidence.samples} has {evidence.count} images")


class DummyEngine:
    """Refuses every job."""

    def environment(self, device: str) -> Environment:
        return read_environment(torch.device(device))

    def run(self, job: Job, listener: EventListener) -> Result:
        return Result(outcome=Failed(status=Status.SKIPPED, reason="a dummy engine runs nothing"))
