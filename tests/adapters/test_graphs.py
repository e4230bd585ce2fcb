"""Recorded calls: every family's steps replay to equal results, and are fit to be recorded."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from tape import TapeCapture, reads_host, storage_of, tensors_in
from tiny_models import build_mvar, tiny_flexvar, tiny_hmar, tiny_mvar, tiny_token_grid, tiny_var
from torch.utils._python_dispatch import TorchDispatchMode

from arvbench.adapters.call import SilentObserver
from arvbench.adapters.editing import KnownPixels
from arvbench.adapters.loading import build_sampler
from arvbench.adapters.sampling import BufferedNoise, PerImageNoise, UpstreamNoise
from arvbench.errors import UserError

FAMILIES = ["var", "mvar", "hmar", "flexvar", "llamagen", "nar", "par"]
every_family = pytest.mark.parametrize("family", FAMILIES)
LABELS = [[3, 1], [7, 0]]


class Listener(SilentObserver):
    """Keeps events, drawn tokens and the state of the cache."""

    def __init__(self, sampler, cache):
        self.events, self.tokens, self.live, self.logits = [], [], [], []
        self.cache = cache

    def step_begin(self, step):
        self.events.append(("begin", step.index))

    def step_end(self, step, output):
        self.events.append(("end", step.index))
        self.tokens.append(output.tokens.clone())
        self.logits.append(output.logits.clone())
        self.live.append(self.cache.live_bytes())

    def decode_begin(self):
        self.events.append("decode begin")

    def decode_end(self, decoded):
        self.events.append("decode end")


class TimesOnly(Listener):
    reads_logits = False


SPECS = {
    "var": tiny_var(num_classes=10),
    "mvar": tiny_mvar(num_classes=10),
    "hmar": tiny_hmar(num_classes=10),
    "flexvar": tiny_flexvar(num_classes=10),
} | {family: tiny_token_grid(family, num_classes=10) for family in ("llamagen", "nar", "par")}
"""They have as many kinds of steps as models of official size."""


def load(family, **recorded):
    build = build_mvar if family == "mvar" else partial(build_sampler, weights="random:1")
    sampler = build(SPECS[family], backend="optimized")
    if recorded:
        sampler.use_graphs(recorded.pop("capture", TapeCapture), **recorded)
    return sampler


def draw(sampler, number, cache=None, observer=None):
    noise = PerImageNoise(number, [5, 6])
    return sampler.sample(LABELS[number], sampler.spec.settings, noise=noise, cache=cache, observer=observer)


def same(ours, theirs):
    assert [t.tolist() for t in ours.tokens] == [t.tolist() for t in theirs.tokens]
    assert torch.equal(ours.images, theirs.images)
    assert torch.equal(ours.decoded, theirs.decoded)


@every_family
def test_replays_equal_calls_that_are_not_recorded(family):
    plain, recorded = load(family), load(family, mode="steps")
    cache = recorded.make_cache(None, recorded.spec.settings, batch=2)
    for number in (0, 1):
        plain_cache = plain.make_cache(None, plain.spec.settings, batch=2)
        heard, expected = Listener(recorded, cache), Listener(plain, plain_cache)
        samples = draw(recorded, number, cache, heard)
        same(samples, draw(plain, number, plain_cache, expected))
        assert heard.events == expected.events
        assert heard.live == expected.live
        for ours, theirs in ((heard.tokens, expected.tokens), (heard.logits, expected.logits)):
            assert all(torch.equal(mine, other) for mine, other in zip(ours, theirs, strict=True))
    report = recorded.graphs.report()
    steps = len(recorded.schedule(recorded.spec.settings, batch=2))
    # One before the first step, the decode, the bytes.
    assert (report.mode, report.graphs, report.reason, report.pool_bytes) == ("steps", steps + 3, "", 1_000)
    assert report.capture_ns > 0


@pytest.mark.parametrize("family", ["var", "nar"])
def test_a_whole_call_is_one_graph(family):
    plain, recorded = load(family), load(family, mode="whole")
    for number in (0, 1):
        same(draw(recorded, number), draw(plain, number))
    assert recorded.graphs.report().graphs == 1


def test_results_of_a_replay_stay_when_the_next_call_overwrites_its_memory():
    sampler = load("nar", mode="steps")
    draw(sampler, 0)
    first = draw(sampler, 0)
    kept = first.images.clone(), first.tokens[3].clone()
    draw(sampler, 1)
    assert torch.equal(first.images, kept[0])
    assert torch.equal(first.tokens[3], kept[1])


def test_an_observer_of_times_gets_no_logits():
    sampler, listener = load("var", mode="steps"), None
    cache = sampler.make_cache(None, sampler.spec.settings, batch=2)
    for _ in range(2):
        listener = TimesOnly(sampler, cache)
        draw(sampler, 0, cache, listener)
    assert {len(logits) for logits in listener.logits} == {0}


def test_calls_without_a_cache_share_one_recording():
    sampler = load("var", mode="steps")
    before = TapeCapture.made
    for number in (0, 1, 0):
        draw(sampler, number)
    assert TapeCapture.made == before + 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"noise": UpstreamNoise(0)}, "UpstreamNoise draws on the host"),
        ({"cache": "grow"}, "cache policy grow allocates in every step"),
        ({"known": KnownPixels(images=torch.zeros(1, 3, 8, 8), keep=torch.ones(1, 8, 8) > 0)}, "known tokens"),
    ],
)
def test_a_call_that_cannot_be_recorded_runs_and_says_why(change, reason):
    sampler = load("var", mode="steps")
    settings = sampler.spec.settings
    options = {"noise": PerImageNoise(0, [0]), **change}
    options["cache"] = sampler.make_cache(options.get("cache"), settings, batch=1)
    samples = sampler.sample([1], settings, **options)
    assert len(samples.images) == 1
    report = sampler.graphs.report()
    assert (report.graphs, report.capture_ns) == (0, 0)
    assert report.reason.startswith(reason)


class Refusing(TapeCapture):
    def end(self):
        self._stop()
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")


def test_a_recording_that_fails_is_given_up_and_calls_run():
    plain, sampler = load("nar"), load("nar", capture=Refusing)
    for number in (0, 1):
        same(draw(sampler, number), draw(plain, number))
    assert sampler.graphs.report().reason.startswith("recording failed: CUDA error: operation not permitted")
    assert sampler.graphs.report().pool_bytes == 0


class Forgetful(TapeCapture):
    def end(self):
        super().end()
        return lambda: None


def test_a_replay_that_differs_is_never_used_and_the_record_says_why():
    sampler, plain = load("nar", capture=Forgetful), load("nar")
    for number in (0, 1):
        same(draw(sampler, number), draw(plain, number))
    assert sampler.graphs.report().graphs == 0
    assert sampler.graphs.describe() == "none: the replay of a recorded call differs from the call, bit by bit"


def test_logits_without_a_softmax_are_found_in_a_replay():
    sampler = load("nar", mode="steps")
    draw(sampler, 0)
    with torch.no_grad():
        sampler.transformer.output.weight.fill_(torch.nan)
    with pytest.raises(UserError, match="logits are not finite in step 0"):
        draw(sampler, 1)


class Watch(TorchDispatchMode):
    """Operators of a call by step, with the memory that each reads, and reads of the host inside the steps."""

    def __init__(self):
        super().__init__()
        self.steps, self.reads, self.inside = [[]], [], False
        self.made, self.kept = {}, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if self.inside and reads_host(func, args):
            self.reads.append(func.name())
        result = func(*args, **(kwargs or {}))
        given, results = [storage_of(t) for t in tensors_in(args, kwargs)], tensors_in(result)
        self.kept += results  # memory that is given back would be taken again, under the same address
        # Memory is named by the operator that took it in this call, or by its address if it is older.
        places = [self.made.get(storage, storage) for storage in given]
        name = f"operator {len(self.steps[-1])} of step {len(self.steps) - 1}"
        self.made |= {storage_of(t): name for t in results if storage_of(t) not in given}
        self.steps[-1].append((func.name(), places, [tuple(t.shape) for t in results]))
        return result


class Marks(SilentObserver):
    def __init__(self, watch):
        self.watch = watch

    def step_begin(self, step):
        self.watch.steps.append([])
        self.watch.inside = True

    def decode_end(self, decoded):
        self.watch.inside = False


@every_family
def test_a_step_neither_waits_nor_depends_on_values_nor_on_the_call(family):
    """Two calls run the same operators on the same memory: their own, the sampler's, the labels' or the noise's."""
    sampler = load(family)
    sampler.sort_all = True
    settings = sampler.spec.settings
    cache, noise = sampler.make_cache(None, settings, batch=2), BufferedNoise(PerImageNoise(0, [5, 6]), sampler.device)
    labels_B, calls = torch.zeros(2, dtype=torch.int64), []
    for number in range(3):
        noise.load(PerImageNoise(number, [5, 6]))
        labels_B.copy_(torch.tensor(LABELS[number % 2]))
        watch = Watch()
        with watch:
            sampler.sample(labels_B, settings, noise=noise, cache=cache, observer=Marks(watch))
        assert watch.reads == []
        calls.append(watch)
    assert len(calls[1].steps) == len(sampler.schedule(settings, batch=2)) + 1
    # The first call makes tables.
    assert calls[1].steps[1:] == calls[2].steps[1:]


def test_the_watch_of_steps_sees_reads_of_the_host_and_other_memory():
    x = torch.arange(6.0)
    watch = Watch()
    watch.inside = True
    with watch:
        _ = x[x > 2], float(x[0]), x.nonzero(), bool((x == x).all()), x[torch.tensor([1, 2])]
    scalar = "aten::_local_scalar_dense"
    assert watch.reads == ["aten::index.Tensor", scalar, "aten::nonzero", scalar]
    others = []
    for _ in range(2):
        watch, y = Watch(), torch.arange(6.0)
        others.append((watch, y))
        with watch:
            _ = (x + y) * 2
    (first, _), (again, _) = others
    assert first.steps != again.steps
    assert first.steps[0][1:] == again.steps[0][1:]
