"""Token loops on one core, optimized against reference: `pytest tests/bench/test_cpu_sampling.py --benchmark-enable`.

Enabled, transformers have the published size B, random weights, and an 8x8 map, so that a call takes seconds. Disabled,
every benchmark runs once on a narrow one. The tokenizer is small, since only the loop is timed. Both backends run in
turn, and nothing is timed before the correctness check has passed. `ratio` is the reference's time over the optimized
backend's, medians of the same run; a product with a GELU is timed beside the two operations, and a rotation beside the
sums that define it.

Bar      1.2 for 4 to 32 rows
"""

from __future__ import annotations

import time
from dataclasses import replace
from statistics import median

import pytest
import torch
from rotation import by_sums, rotated_inputs
from turns import in_turn

from arvbench.adapters.call import SilentObserver, StepOutput
from arvbench.adapters.common import linear
from arvbench.adapters.common.linear import GeluLinear
from arvbench.adapters.common.rotary import rotate
from arvbench.adapters.llamagen import LLAMAGEN_B_256
from arvbench.adapters.loading import build_sampler
from arvbench.adapters.nar import NAR_B
from arvbench.adapters.par import PAR_XL_4X_384
from arvbench.adapters.sampler import ModelSpec, Sampler
from arvbench.adapters.sampling import PerImageNoise
from arvbench.adapters.schedule import Step
from arvbench.adapters.token_grid.llama import SIZES
from arvbench.adapters.token_grid.sampler import DEMO_TOKENIZER
from arvbench.harness.measure.correctness import check_correctness

SPECS = {"llamagen": LLAMAGEN_B_256, "nar": NAR_B, "par": PAR_XL_4X_384}


class Loop(SilentObserver):
    """Times the loop over all steps, in seconds."""

    def step_begin(self, step: Step) -> None:
        if step.index == 0:
            self._begin = time.perf_counter()

    def step_end(self, step: Step, output: StepOutput) -> None:
        self.seconds = time.perf_counter() - self._begin


def loop_seconds(sampler: Sampler, batch: int) -> float:
    loop = Loop()
    noise = PerImageNoise(0, range(batch))
    sampler.sample([0] * batch, sampler.spec.settings, noise=noise, observer=loop)
    return loop.seconds


def small_map(family: str, *, published: bool) -> ModelSpec:
    spec = SPECS[family]
    narrow = {"dim": 512, "n_layer": 1, "n_head": 8, "vocab_size": 64, "block_size": 16}
    transformer = replace(spec.transformer, **(SIZES["b"] | {"block_size": 64} if published else narrow))
    return replace(
        spec, transformer=transformer, tokenizer=replace(DEMO_TOKENIZER, codebook_size=transformer.vocab_size)
    )


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("family", sorted(SPECS))
def test_time_of_the_token_loop(benchmark, family: str, batch: int) -> None:
    spec = small_map(family, published=benchmark.enabled)
    optimized, reference = (
        build_sampler(spec, weights="random:0", backend=backend) for backend in ("optimized", "reference")
    )
    assert check_correctness(optimized, spec.settings, cache_policy=None, batch=batch).passed
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ours, theirs = [], []

    def both() -> None:
        theirs.append(loop_seconds(reference, batch))
        ours.append(loop_seconds(optimized, batch))

    try:
        benchmark.pedantic(both, warmup_rounds=0, rounds=3 if benchmark.enabled else 1)
    finally:
        torch.set_num_threads(threads)
    benchmark.extra_info |= {
        "packed": len(optimized.packed(optimized.schedule(spec.settings, batch=batch))),
        "optimized_s": median(ours),
        "reference_s": median(theirs),
        "ratio": median(theirs) / median(ours),
        "bar": ">= 1.2 for 4 to 32 rows",
    }


@pytest.mark.parametrize("size", [(192, 768), (1024, 4096)], ids=str)
@pytest.mark.parametrize("rows", [64, 800])
def test_time_of_a_product_with_a_gelu(benchmark, rows: int, size: tuple[int, int]) -> None:
    width, hidden = size if benchmark.enabled else (16, 32)
    layer, x = GeluLinear(width, hidden, "tanh"), torch.randn(rows, width)
    seconds: dict[bool, list[float]] = {True: [], False: []}

    def both() -> None:
        for layer.at_once, taken in seconds.items():
            begin = time.perf_counter()
            layer(x)
            taken.append(time.perf_counter() - begin)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            benchmark.pedantic(both, warmup_rounds=2, rounds=30 if benchmark.enabled else 1)
    finally:
        torch.set_num_threads(threads)
    at_once, apart = median(seconds[True]), median(seconds[False])
    bar = ">= 1.0" if linear.processor() == "AVX512" else "none: not used here"
    benchmark.extra_info |= {"at_once_s": at_once, "apart_s": apart, "ratio": apart / at_once, "bar": bar}


@pytest.mark.parametrize("tokens", [1, 8, 64])
def test_time_of_a_rotation(benchmark, tokens: int) -> None:
    x, rope = rotated_inputs(16, tokens, 12, 64) if benchmark.enabled else rotated_inputs(1, tokens, 1, 16)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            in_turn(benchmark, lambda: rotate(x, rope), lambda: by_sums(x, rope), bar=">= 2.0", rounds=30)
    finally:
        torch.set_num_threads(threads)
