"""Table of docs/performance.md: token loops of official code and of ours in turn, in one process.

    python tests/support/official_loops.py nar ~/NAR --threads 1 --batches 1 4 8 --calls 3

Transformers of published width, random weights in both, an 8 x 8 map. All tokens of both of our backends equal the
official ones before a time is taken. One thread is timed in CPU seconds, more in wall seconds. A family per process:
official packages have equal names.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

from arvbench.adapters.call import Observer, Samples, SilentObserver, StepOutput
from arvbench.adapters.llamagen import LLAMAGEN_B_256
from arvbench.adapters.loading import build_sampler
from arvbench.adapters.nar import NAR_B
from arvbench.adapters.registry import MODELS
from arvbench.adapters.sampler import ModelSpec, Sampler
from arvbench.adapters.sampling import UpstreamNoise
from arvbench.adapters.schedule import Step
from arvbench.adapters.token_grid.sampler import DEMO_TOKENIZER
from arvbench.harness.measure.correctness import spread_labels
from arvbench.harness.versus.checkouts import upstream_of
from arvbench.harness.versus.official import OFFICIALS, Official

SEED = 0


class Loop(SilentObserver):
    """Times the loop over all steps, in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock

    def step_begin(self, step: Step) -> None:
        if step.index == 0:
            self.begin = self.clock()

    def step_end(self, step: Step, output: StepOutput) -> None:
        self.seconds = self.clock() - self.begin


def small_map(family: str) -> ModelSpec:
    """The published transformer of size B, or of depth 16, with an 8 x 8 map and a small tokenizer."""
    if published := {"llamagen": LLAMAGEN_B_256, "nar": NAR_B}.get(family):
        transformer = replace(published.transformer, block_size=64)
        tokenizer = replace(DEMO_TOKENIZER, codebook_size=transformer.vocab_size)
        return replace(published, transformer=transformer, tokenizer=tokenizer)
    demo = MODELS[f"demo/{family}"]
    # What costs time is as published: width, depth, a modulation per block. Classes and codebook are the demo's.
    transformer = replace(demo.transformer, depth=16, embed_dim=1024, num_heads=16, shared_aln=False)
    spec = replace(demo, transformer=transformer)
    if family != "flexvar":
        return spec
    # The official decoder takes codes of 32 channels alone.
    tokenizer = replace(spec.tokenizer, codebook_embed_dim=32)
    return replace(spec, transformer=replace(transformer, code_dim=32), tokenizer=tokenizer)


def loops(official: Official, samplers: Sequence[Sampler], batch: int, calls: int, clock: Callable[[], float]) -> str:
    """Time `calls` calls of the official code and of the last sampler in turn, after one; tokens of all are equal."""
    settings, labels = samplers[0].spec.settings, spread_labels(batch, samplers[0].spec.num_classes)

    def theirs(observer: Observer) -> Samples:
        return official.sample(labels, settings, seed=SEED, observer=observer)

    def ours(observer: Observer, sampler: Sampler = samplers[-1]) -> Samples:
        return sampler.sample(labels, settings, noise=UpstreamNoise(SEED, sampler.device), observer=observer)

    with official.recording():
        expected = theirs(SilentObserver()).tokens
    for sampler in samplers:
        drawn = ours(SilentObserver(), sampler).tokens
        assert all(map(torch.equal, drawn, expected)), f"{sampler.backend} draws other tokens at batch {batch}"
    seconds: dict[str, list[float]] = {"official": [], "ours": []}
    for number in range(calls + 1):
        for side, call in (("official", theirs), ("ours", ours))[:: 1 if number % 2 else -1]:
            loop = Loop(clock)
            call(loop)
            seconds[side].append(loop.seconds)
    text = ", ".join(f"{side} {' '.join(f'{t:.2f}' for t in times[1:])} s" for side, times in seconds.items())
    ratio = median(seconds["official"][1:]) / median(seconds["ours"][1:])
    return f"batch {batch}: {text}, ratio {ratio:.2f}"


def main(arguments: list[str] | None = None) -> None:
    """Print a line per batch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=("llamagen", "nar", "var", "flexvar"))
    parser.add_argument("root", type=Path, help="checkout of the official repository")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--calls", type=int, default=3, help="timed calls of each side, after one")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    sys.dont_write_bytecode = True  # the checkout is the user's
    spec = small_map(options.family)
    samplers = [build_sampler(spec, weights="random:0", backend=backend) for backend in ("reference", "optimized")]
    official = OFFICIALS[options.family](samplers[0], upstream_of(options.family, options.root).root, torch.float32)
    official.check(spec.settings)
    clock = time.process_time if options.threads == 1 else time.perf_counter
    for batch in options.batches:
        print(f"{options.family}, threads {options.threads}, {loops(official, samplers, batch, options.calls, clock)}")


if __name__ == "__main__":
    main()
