"""Samplers that cheat: each gets no better time than an honest one, or none at all.

No test measures a time: cheats are told by what they leave undone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from tiny_models import tiny_var
from torch import Tensor

from arvbench.adapters.call import SilentObserver
from arvbench.adapters.loading import build_sampler
from arvbench.adapters.var import VarSampler
from arvbench.errors import ContractError
from arvbench.harness.jobs import Job
from arvbench.harness.measure.case import measure_case
from arvbench.harness.measure.clocks import WallClock, clock_for
from arvbench.harness.measure.correctness import check_correctness
from arvbench.harness.measure.integrity import FreshNoise
from arvbench.harness.measure.timing import time_once
from arvbench.results.schema import CaseConfig, Measured

BACKENDS = ("reference", "optimized")


class Lazy(Tensor):
    """A tensor that runs its operators when it is read: here it only looks like one."""


class Release:
    """Lets the background work of a cheat go on when a test says so."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.threads: list[threading.Thread] = []

    def later(self, work) -> None:
        def wait_and_work() -> None:
            self.event.wait()
            with torch.inference_mode():  # a thread has a mode of its own
                work()

        self.threads.append(threading.Thread(target=wait_and_work))
        self.threads[-1].start()

    def now(self) -> None:
        self.event.set()
        for thread in self.threads:
            thread.join()


@pytest.fixture
def release() -> Iterator[Release]:
    made = Release()
    yield made
    made.now()


def build(sampler_class: type[VarSampler], backend: str = "optimized"):
    return build_sampler(replace(tiny_var(), sampler=sampler_class), weights="random:1", backend=backend)


def check(sampler):
    return check_correctness(sampler, sampler.spec.settings, cache_policy=None, batch=2)


def timed(sampler, calls: int = 3, clock=None) -> None:
    """Time some calls, as a case does."""
    noise = FreshNoise(0, 2)

    def call(observer):
        return sampler.sample([0, 1], sampler.spec.settings, noise=noise.next(), observer=observer)

    for _ in range(calls):
        time_once(call, clock or WallClock())
    noise.check(sampler.schedule(sampler.spec.settings, batch=2))


@pytest.mark.parametrize("backend", BACKENDS)
def test_anhonest_sampler_is_timed(backend):
    sampler = build(VarSampler, backend)
    result = check(sampler)
    assert result.passed
    # The reference decodes maps in another layout, which moves the last bits.
    assert result.image_diff is None if backend == "reference" else result.image_diff < 1e-5
    timed(sampler)


class LazyImages(VarSampler):
    def sample(self, *args, **options):
        samples = super().sample(*args, **options)
        return replace(samples, images=samples.images.as_subclass(Lazy))


class FutureImages(VarSampler):
    def sample(self, *args, **options):
        return replace(super().sample(*args, **options), images=lambda: None)


class LazyTokens(VarSampler):
    def draw(self, step, scale, run):
        drawn = super().draw(step, scale, run)
        return drawn._replace(tokens_Bl=drawn.tokens_Bl.as_subclass(Lazy))


@pytest.mark.parametrize("cheat", [LazyImages, FutureImages, LazyTokens])
def test_a_result_that_is_computed_when_read_is_refused(cheat):
    sampler = build(cheat)
    with pytest.raises(ContractError, match="plain tensors"):
        timed(sampler)
    with pytest.raises(ContractError, match="plain tensors"):
        check(sampler)


def test_images_that_a_thread_fills_in_later_are_refused(release):
    class Later(VarSampler):
        def sample(self, *args, **options):
            samples = super().sample(*args, **options)
            empty = torch.zeros_like(samples.images)
            release.later(lambda: empty.copy_(samples.images))
            return replace(samples, images=empty)

    class Settling(WallClock):
        def settle(self) -> None:
            if release.threads:  # not before the call, or the images may be there in time
                release.now()

    with pytest.raises(ContractError, match="another thread or stream"):
        timed(build(Later), clock=Settling())


def on_a_thread(work):
    """Return the result of `work`, computed by another thread: the caller waits for it."""
    results = []

    def run() -> None:
        with torch.no_grad():
            results.append(work())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return results[0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_decode_on_another_thread_is_refused(backend):
    """Even when the call waits for it: whether it does cannot be seen."""

    class Elsewhere(VarSampler):
        def decode_state(self, state):
            return on_a_thread(lambda: VarSampler.decode_state(self, state))

    with pytest.raises(ContractError, match=r"inside decode.*another thread"):
        check(build(Elsewhere, backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_steps_that_a_thread_computes_later_have_no_speed(release, backend):
    class LaterSteps(VarSampler):
        def draw(self, step, scale, run):
            drawn = super().draw(step, scale, run)
            parts = drawn.logits_RlV, drawn.logits_BlV, drawn.filtered_BlV, drawn.tokens_Bl
            empty = [torch.zeros_like(part) for part in parts]
            release.later(lambda: [later.copy_(part) for later, part in zip(empty, parts, strict=True)])
            return type(drawn)(*empty)

    assert not check(build(LaterSteps, backend)).passed


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_decode_that_is_not_done_yet_is_refused(release, backend):
    class LaterDecode(VarSampler):
        def decode_state(self, state):
            decoded = torch.zeros(len(state), 3, self.spec.image_px, self.spec.image_px)
            release.later(lambda: decoded.copy_(VarSampler.decode_state(self, state)))
            return decoded

    with pytest.raises(ContractError, match="inside decode"):
        check(build(LaterDecode, backend))


class Cheap(VarSampler):
    """Decodes one colour per image, in the backend that is judged."""

    def decode_state(self, state):
        decoded = super().decode_state(state)
        flat = decoded.mean(dim=(2, 3), keepdim=True).expand_as(decoded).contiguous()
        return decoded if self.backend == "reference" else flat


def test_a_decode_that_computes_something_else_has_no_speed():
    result = check(build(Cheap))
    assert result.max_abs_diff <= result.tolerance and result.equal_tokens == 1.0
    assert result.image_diff > 1e-3 and not result.passed


class KeptAnswer(VarSampler):
    """Answers equal labels from memory, whatever the noise."""

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        self.kept: dict[tuple[int, ...], object] = {}

    def sample(self, labels, settings, *, noise, observer=None, **options):
        key = tuple(labels)
        if key not in self.kept:
            self.kept[key] = super().sample(labels, settings, noise=noise, observer=observer, **options)
        else:
            self.replay(settings, len(labels), observer or SilentObserver())
        return self.kept[key]

    def replay(self, settings, batch, observer) -> None:
        for step in self.schedule(settings, batch=batch):
            observer.step_begin(step)
            observer.step_end(step, None)
        observer.decode_begin()
        observer.decode_end(None)


def test_an_answer_that_was_kept_is_refused():
    with pytest.raises(ContractError, match=r"call 1 drew no tokens in 4 of 4 steps"):
        timed(build(KeptAnswer))


class KeptByNoise(KeptAnswer):
    """Answers equal labels with equal noise from memory: right, and of no use."""

    computed = 0

    def sample(self, labels, settings, *, noise, observer=None, **options):
        key = (*labels, noise._images_B.tolist().__repr__())
        if key not in self.kept:
            self.computed += 1
            self.kept[key] = VarSampler.sample(self, labels, settings, noise=noise, observer=observer, **options)
        return self.kept[key]


def test_no_two_timed_calls_have_equal_inputs():
    sampler = build(KeptByNoise)
    timed(sampler, calls=4)
    assert sampler.computed == 4


def swapped(order: str) -> type[VarSampler]:
    """Make a sampler that reports a step before or after the step's work."""

    class Swapped(VarSampler):
        def draw(self, step, scale, run):
            observer = run.call.observer
            silent = replace(run.call, observer=SilentObserver())
            run.call = silent
            if order == "early":
                observer.step_begin(step)
                empty = torch.zeros(len(run.call.labels_R) // 2, step.new_tokens, dtype=torch.int64)
                observer.step_end(step, fake_output(self, empty))
            drawn = super().draw(step, scale, run)
            if order == "late":
                observer.step_begin(step)
                observer.step_end(step, fake_output(self, drawn.tokens_Bl))
            run.call = replace(silent, observer=observer)
            return drawn

        def end(self, step, drawn, run, **options) -> None: ...

    return Swapped


def fake_output(sampler, tokens_Bl):
    from arvbench.adapters.call import StepOutput

    logits = torch.zeros(*tokens_Bl.shape, sampler.spec.vocab_size)
    return StepOutput(logits_pre_cfg=logits, logits=logits, tokens=tokens_Bl, state=logits)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("order", ["early", "late"])
def test_events_beside_the_work_are_refused(backend, order):
    with pytest.raises(ContractError, match=r"inside step\[0\].*events are early or late"):
        check(build(swapped(order), backend))


def test_tokens_that_are_filled_in_after_their_event_do_not_count():
    """The events come when they should, with tokens that are drawn later in the call."""

    class FilledIn(VarSampler):
        def draw(self, step, scale, run):
            drawn = super().draw(step, scale, run)
            empty = torch.zeros_like(drawn.tokens_Bl)
            self.pending = (empty, drawn.tokens_Bl)
            return drawn._replace(tokens_Bl=empty)

        def end(self, step, drawn, run, **options) -> None:
            super().end(step, drawn, run, **options)
            self.pending[0].copy_(self.pending[1])

    sampler = build(FilledIn, "reference")
    result = check(sampler)
    assert not result.passed


honest_sample = VarSampler.sample


def lazy_sample(self, *args, **options):
    samples = honest_sample(self, *args, **options)
    return replace(samples, images=samples.images.as_subclass(Lazy))


def test_a_cheat_ends_as_an_error_of_its_case(tmp_path, monkeypatch):
    case = CaseConfig(model="demo/var", weights="random:0", repeats=1, max_warmup=1)
    monkeypatch.setattr(VarSampler, "sample", lazy_sample)
    with pytest.raises(ContractError, match="plain tensors"):
        measure_case(Job(record_id="r", case=case, folder=tmp_path), lambda event: None)


def test_a_whole_case_is_measured_with_fresh_noise(tmp_path, monkeypatch):
    seen: list[list[int]] = []

    def watched(self, labels, settings, *, noise, **options):
        seen.append(noise._images_B.tolist())
        return honest_sample(self, labels, settings, noise=noise, **options)

    monkeypatch.setattr(VarSampler, "sample", watched)
    case = CaseConfig(model="demo/var", weights="random:0", repeats=3, max_warmup=1, batch=2)
    outcome = measure_case(Job(record_id="r", case=case, folder=tmp_path), lambda event: None).outcome
    assert isinstance(outcome, Measured)
    in_the_check = 2
    assert seen[in_the_check:] == [[2 * k, 2 * k + 1] for k in range(5)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="work on another stream needs a CUDA device")
def test_work_on_another_stream_is_refused():
    class OtherStream(VarSampler):
        def decode_state(self, state):
            stream = torch.cuda.Stream()
            decoded = torch.zeros(len(state), 3, self.spec.image_px, self.spec.image_px, device=state.device)
            with torch.cuda.stream(stream):
                torch.cuda._sleep(200_000_000)
                decoded.copy_(super().decode_state(state))
            return decoded

    spec = replace(tiny_var(), sampler=OtherStream)
    sampler = build_sampler(spec, weights="random:1", backend="optimized", device="cuda")
    with pytest.raises(ContractError, match=r"another (thread or )?stream"):
        timed(sampler, clock=clock_for(sampler.device))
