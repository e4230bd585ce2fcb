"""Captured calls: the device work of a sampling call is recorded once and replayed, without the host in between.

A call is recorded in one of two modes. "steps": a graph per step, one for the work before the first, for the decode and
for the bytes, so that observers hear every event. "whole": one graph from labels to bytes, of which observers hear
nothing. Graphs read and write memory of their own: labels and noise are copied there before a replay, tokens and images
from there after it. What a step hands to an observer is overwritten by the next call.

A recording is checked before it is used: its first replay equals a call that was not recorded, bit for bit.

Units    _ns nanoseconds, _bytes bytes
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from arvbench.adapters.cache import CACHE_POLICIES
from arvbench.adapters.cache.policy import Cache
from arvbench.adapters.call import Outcome, SamplingCall, SilentObserver, StepOutput
from arvbench.adapters.sampling import BufferedNoise, PerImageNoise
from arvbench.adapters.schedule import Step

GraphMode = Literal["steps", "whole"]
MOST_RECORDINGS = 4
"""Recorded calls of one sampler; the one that was used longest ago goes first, with its memory."""


class Capture(Protocol):
    """Recorder of device work; all recordings of one object share memory and are replayed in their order."""

    def aside(self) -> AbstractContextManager[None]:
        """Run the block where work can be recorded."""
        ...

    def begin(self) -> None: ...

    def end(self) -> Callable[[], None]:
        """End the recording and return its replay."""
        ...

    def abort(self) -> None:
        """End a recording that failed, if one is open."""
        ...

    def pool_bytes(self) -> int:
        """Memory that the recordings hold."""
        ...


class CudaCapture:
    """CUDA graphs in one memory pool."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._pool = device, torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)
        self._graph: torch.cuda.CUDAGraph | None = None

    @contextmanager
    def aside(self) -> Iterator[None]:
        with torch.cuda.device(self._device):
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                yield
            torch.cuda.current_stream().wait_stream(self._stream)

    def begin(self) -> None:
        self._graph = torch.cuda.CUDAGraph()
        # Other threads, such as those that sample telemetry, may call CUDA meanwhile.
        self._graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")

    def end(self) -> Callable[[], None]:
        assert self._graph is not None
        graph, self._graph = self._graph, None
        graph.capture_end()
        return graph.replay

    def abort(self) -> None:
        if self._graph is not None:
            graph, self._graph = self._graph, None
            with suppress(RuntimeError):
                graph.capture_end()

    def pool_bytes(self) -> int:
        segments = torch.cuda.memory_snapshot()
        return sum(s["total_size"] for s in segments if tuple(s.get("segment_pool_id", ())) == tuple(self._pool))


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphReport:
    """Description of the recordings of one mode, for the record."""

    mode: GraphMode
    graphs: int
    """Of the call recorded last; 0 when calls ran without."""
    capture_ns: int
    """Time to record it, without the call before that it is compared with."""
    pool_bytes: int
    """Memory of all recordings of this mode."""
    reason: str = ""
    """Why the last call was not replayed; empty when it was."""


@dataclass(slots=True, kw_only=True)
class _Recording:
    """One recorded call: its memory, and what to do in a replay."""

    call: SamplingCall
    noise: BufferedNoise
    capture: Capture
    script: list[Callable[[SamplingCall], None]] = field(default_factory=list)
    graphs: int = 0
    capture_ns: int = 0
    outcome: Outcome | None = None

    def replay(self, call: SamplingCall, noise: PerImageNoise) -> Outcome:
        """Return the results of a call in memory that the next replay overwrites."""
        assert self.outcome is not None
        self.call.labels_R.copy_(call.labels_R)
        self.noise.load(noise)
        for act in self.script:
            act(call)
        for step in call.schedule:
            noise.replayed(step.index)
        call.adopt(self.call)
        return self.outcome


class _RecordingObserver:
    """Cuts a call into graphs at its events, and notes the events."""

    def __init__(self, recording: _Recording, mode: GraphMode, *, logits: bool) -> None:
        self._recording, self._steps, self.reads_logits = recording, mode == "steps", logits

    def begin(self) -> None:
        self._recording.capture.begin()

    def end(self) -> None:
        replay = self._recording.capture.end()
        self._recording.graphs += 1
        self._recording.script.append(lambda _: replay())

    def step_begin(self, step: Step) -> None:
        if not self._steps:
            return
        if step is self._recording.call.schedule.steps[0]:
            self.end()
        self._recording.script.append(lambda call: call.observer.step_begin(step))
        self.begin()

    def step_end(self, step: Step, output: StepOutput) -> None:
        progress, cache = self._recording.call.cache.progress(), self._recording.call.cache
        if not self.reads_logits:
            # Kept, the logits of all steps would take more memory than the model.
            output = replace(output, logits_pre_cfg=output.logits_pre_cfg[:0], logits=output.logits[:0])
            output = replace(output, logits_pre_cfg=output.logits_pre_cfg.clone(), logits=output.logits.clone())
        if self._steps:
            self.end()

        def told(call: SamplingCall) -> None:
            cache.resume(progress)
            if self._steps:
                call.observer.step_end(step, output)

        self._recording.script.append(told)

    def decode_begin(self) -> None:
        if self._steps:
            self._recording.script.append(lambda call: call.observer.decode_begin())
            self.begin()

    def decode_end(self, decoded: Tensor) -> None:
        if self._steps:
            self.end()
            self._recording.script.append(lambda call: call.observer.decode_end(decoded))
            self.begin()


class CallGraphs:
    """Recordings of one sampler's calls, by settings, batch, cache and what observers read."""

    def __init__(
        self, run: Callable[[SamplingCall], Outcome], capture: Callable[[], Capture], *, mode: GraphMode = "steps"
    ) -> None:
        """Take the function that runs a call, and the maker of recorders."""
        self._run, self._capture, self.mode = run, capture, mode
        self._recordings: dict[tuple[Any, ...], _Recording] = {}
        self._reason, self._failed = "no call was made yet", ""
        self._last: _Recording | None = None
        self._cache: Cache | None = None

    def cache(self, policy: str, shape: Any) -> Cache:
        """Return the cache of calls that bring none: recordings write to one place, so the last one is taken again."""
        if self._cache is None or (self._cache.policy, self._cache.shape) != (policy, shape):
            self._cache = CACHE_POLICIES[policy](shape)
        return self._cache

    def run(self, call: SamplingCall) -> Outcome:
        """Replay `call`, recording it first if it is new; or just run it, and note the reason.

        After a recording that failed, or whose replay differs from the call, every call runs.
        """
        noise = call.noise
        self._reason = _why_not(call) or self._failed
        if self._reason or not isinstance(noise, PerImageNoise):
            return self._run(call)
        logits = call.reads_logits
        # The recording keeps the cache, so its number is not given to another.
        key = (call.settings.model_dump_json(), call.schedule.images, logits, id(call.cache), self.mode)
        if key not in self._recordings:
            return self._record(key, call, noise, logits=logits)
        self._last = self._recordings[key] = self._recordings.pop(key)
        return self._last.replay(call, noise)

    def forget(self) -> None:
        """Drop all recordings: calls run in another way from now on."""
        self._recordings, self._last = {}, None

    def describe(self) -> str:
        """Return how the last call ran, in a phrase for the record."""
        report = self.report()
        if report.reason:
            return f"none: {report.reason}"
        return (
            f"{report.graphs} in mode {report.mode}, captured in {report.capture_ns / 1e6:.1f} ms, pool of "
            f"{report.pool_bytes} bytes"
        )

    def report(self) -> GraphReport:
        """Describe the last call and the memory of all recordings."""
        last = None if self._reason else self._last
        return GraphReport(
            mode=self.mode,
            graphs=last.graphs if last else 0,
            capture_ns=last.capture_ns if last else 0,
            pool_bytes=sum(recording.capture.pool_bytes() for recording in self._recordings.values()),
            reason=self._reason,
        )

    def _record(self, key: tuple[Any, ...], call: SamplingCall, noise: PerImageNoise, *, logits: bool) -> Outcome:
        capture = self._capture()
        with capture.aside():
            # Also the warm-up: libraries allocate and choose, kernels are compiled and tables made.
            expected = self._run(call)
            progress = call.cache.progress()
            try:
                recording = self._recorded(call, noise, capture, logits=logits)
            except RuntimeError as error:
                # What cannot be recorded can be run. Other errors are those of the model, which running has passed.
                capture.abort()
                call.cache.resume(progress)
                self._reason = self._failed = "recording failed: " + " ".join(str(error).split())[:200]
                return expected
        call.cache.reset()
        if not recording.replay(replace(call, observer=SilentObserver()), noise).equals(expected):
            call.cache.resume(progress)
            self._reason = self._failed = "the replay of a recorded call differs from the call, bit by bit"
            return expected
        self._recordings[key] = self._last = recording
        while len(self._recordings) > MOST_RECORDINGS:
            del self._recordings[next(iter(self._recordings))]
        return expected

    def _recorded(self, call: SamplingCall, noise: PerImageNoise, capture: Capture, *, logits: bool) -> _Recording:
        """Record `call` without its noise and labels: nothing that it would draw can be in the recording."""
        call.cache.reset()
        buffered = BufferedNoise(noise, call.labels_R.device)
        own = replace(call, labels_R=torch.zeros_like(call.labels_R), noise=buffered, observer=SilentObserver())
        recording = _Recording(call=own, noise=buffered, capture=capture)
        observer = _RecordingObserver(recording, self.mode, logits=logits)
        recording.call = replace(own, observer=observer)
        begin = time.perf_counter_ns()
        observer.begin()
        recording.outcome = self._run(recording.call)
        observer.end()
        recording.capture_ns = time.perf_counter_ns() - begin
        return recording


def _why_not(call: SamplingCall) -> str:
    """Return why `call` cannot be recorded; "" if it can."""
    if _get_current_dispatch_mode() is not None:
        return "the operators of this call are watched one by one"
    if not isinstance(call.noise, PerImageNoise):
        return f"{type(call.noise).__name__} draws on the host or from a list"
    if not call.cache.in_place:
        return f"cache policy {call.cache.policy} allocates in every step"
    if call.known is not None:
        return "known tokens change from call to call"
    return ""
