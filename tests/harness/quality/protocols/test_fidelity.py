"""Which code computes torch-fidelity's numbers: the library for its own protocol, ours for the digits'."""

from __future__ import annotations

from warm_program import Programs

from arvbench.harness.quality.protocols import PROTOCOLS

ALL_OF_DIGITS = """
import sys
from arvbench.harness.data.digits import load_digits_rgb
from arvbench.harness.quality.evaluation import EvaluationRequest, evaluate
from arvbench.harness.quality.images.tensors import TensorSource

digits = load_digits_rgb()
source = TensorSource(digits.images_N3HW[:160], name="some", labels_N=digits.labels_N[:160])
for number in evaluate(source, EvaluationRequest(protocols=("digits-cnn",), reference="digits")).numbers:
    print(number.metric, number.detail.get("computed_by", ""))
print("imported:", *{"torch_fidelity", "torchvision", "cleanfid", "open_clip"} & set(sys.modules))
"""


def test_the_digits_protocol_imports_no_metric_library(programs: Programs) -> None:
    done = programs.run("-c", ALL_OF_DIGITS)
    assert done.returncode == 0, done.stderr
    *numbers, imported = done.stdout.splitlines()
    assert [line.split()[0] for line in numbers] == [metric.name for metric in PROTOCOLS["digits-cnn"].metrics]
    assert imported.strip() == "imported:"
    by = dict(line.split(" ", 1) for line in numbers)
    assert by["fid"] == by["isc"] == by["precision"] == "arvbench, equal to the library bit for bit"
    assert by["kid"] == "arvbench, equal to the library to 1e-10"
