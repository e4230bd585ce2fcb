"""Tables of memory by definition: what a case is compared with."""

from __future__ import annotations

import records as make
from report_text import column

from arvbench.reports.tables.definitions import transients_table
from arvbench.results.memory import StepPeak, TensorPeaks
from arvbench.results.schema import Record


def traced(number: int, peak_mib: int, **options: object) -> Record:
    """A case whose token loop held `peak_mib` of tensors."""
    plain = make.record(number=number, **options)
    peak = peak_mib * 2**20
    step = StepPeak(step=0, peak_bytes=peak, after_bytes=peak // 2)
    tensors = TensorPeaks(steps=(step,), tokens_peak_bytes=peak, decode_peak_bytes=peak)
    memory = plain.outcome.memory.model_copy(update={"tensors": tensors})
    return plain.model_copy(update={"outcome": plain.outcome.model_copy(update={"memory": memory})})


def test_a_policy_is_compared_with_the_static_cache_of_the_same_method_kernels_and_machine() -> None:
    records = [
        traced(0, 100, cache="static"),
        traced(1, 130, cache="grow"),
        traced(2, 80, cache="grow", method="fastvar"),
        traced(3, 90, cache="grow", kernels={"adaln": "torch"}),
        traced(4, 70, cache="grow", environment=make.environment(cpu="another")),
    ]
    above = column(transients_table(records), "Above static")
    assert [cell.sort for cell in above] == [0.0, 30.0, None, None, None]
