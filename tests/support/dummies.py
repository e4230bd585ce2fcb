"""A newcomer's first try of every kind that CONTRIBUTING.md says how to add: as short as that kind allows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from arvbench.adapters.cache.grow import GrowCache
from arvbench.adapters.var import DEMO
from arvbench.harness.jobs import EventListener, Job, Result
from arvbench.harness.machine.environment import read_environment
from arvbench.harness.quality.detectors.evidence import Evidence
from arvbench.harness.quality.extractors.extractor import Extractor, ExtractorFiles
from arvbench.harness.quality.images.source import ImageSource
from arvbench.harness.quality.images.tensors import TensorSource
from arvbench.harness.quality.protocols.protocol import EvaluationProtocol, Metric, MetricInputs, MetricValue
from arvbench.harness.training import Progress, Training
from arvbench.harness.training.stages import DemoSettings
from arvbench.harness.training.tokenizer import TokenizerSettings
from arvbench.harness.training.transformer import TransformerSettings
from arvbench.kernels.backends import Backend
from arvbench.kernels.contract import KernelSpec, Limits, Tol, Workload
from arvbench.reports.data import make_data
from arvbench.reports.figures.drawing import Drawing, panels
from arvbench.reports.table import Cell, Column, Table, make_table
from arvbench.results.schema import Environment, Failed, Finding, Record, Status

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
DEMO_MODEL = replace(DEMO, name="demo/dummy")
BRIEF_TRAINING = DemoSettings(
    tokenizer=TokenizerSettings(epochs=1), transformer=TransformerSettings(epochs=1), shifts=((0, 0),)
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


def _distance(inputs: MetricInputs, layer: str) -> MetricValue:
    """Return the distance between the mean features of samples and reference."""
    samples_ND, reference_MD = inputs.features(layer)
    return MetricValue(value=float((samples_ND.mean(dim=0) - reference_MD.mean(dim=0)).norm()))


METRIC = Metric("dummy-metric", "colour", compute=_brightness)
COMPARISON = Metric("dummy-comparison", "colour", reads="features", compute=_distance)
PROTOCOL = EvaluationProtocol(name="dummy-protocol", extractor="dummy-extractor", metrics=(METRIC,))
COMPARING = replace(PROTOCOL, metrics=(COMPARISON,))


def detect(evidence: Evidence) -> Iterator[Finding]:
    """Find that samples exist."""
    yield Finding(code="dummy-finding", severity="note", text=f"{evidence.samples} has {evidence.count} images")


class DummyEngine:
    """Refuses every job."""

    def environment(self, device: str) -> Environment:
        return read_environment(torch.device(device))

    def room(self, job: Job, others: Sequence[Job]) -> bool:
        return True

    def run(self, job: Job, listener: EventListener) -> Result:
        return Result(outcome=Failed(status=Status.SKIPPED, reason="a dummy engine runs nothing"))

    def close(self) -> None: ...


@dataclass(frozen=True)
class DummyImages:
    """A data set of two grey images."""

    images_N3HW: Tensor = field(default_factory=lambda: torch.full((2, 3, 16, 16), 128, dtype=torch.uint8))
    labels_N: Tensor = field(default_factory=lambda: torch.tensor([0, 1]))


def open_raw(path: Path) -> ImageSource:
    """Open a file of the format `.raw16`: 16 x 16 RGB images, one after another."""
    pixels = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
    return TensorSource(pixels.view(-1, 16, 16, 3).permute(0, 3, 1, 2).contiguous(), name=path.name)


class DummyTraining(Training):
    """Writes the answer without any work."""

    name = "dummy-training"

    def run(
        self, out_dir: Path, *, device: torch.device | str = "cpu", progress: Progress | None = None
    ) -> dict[str, Any]:
        (out_dir / "dummy.txt").write_text("42")
        return {"device": str(device), "wall_s": 0.0, "quality": {"answer": 42.0}}


def dummy_verb(
    name: Annotated[str, typer.Argument(help="Name of somebody to greet.")],
) -> None:
    """Greet NAME.

    Examples:

      arvbench dummy-verb you
    """
    typer.echo(f"hello {name}")


def dummy_table(records: Sequence[Record]) -> Table:
    """Make a table with one row per record."""
    columns = [Column("Dummy column", cell=lambda record: Cell(text=record.case_id))]
    return make_table("Dummy caption", columns, records)


def dummy_figure(records: Sequence[Record]) -> Drawing | None:
    """Draw the number of records; None without any."""
    if not records:
        return None
    figure, (axes,) = panels(1, [])
    axes.bar([0], [len(records)])
    data = make_data(("Records",), [(len(records),)])
    return Drawing(figure=figure, title="Dummy figure", caption="The number of records.", alt="One bar.", data=data)
