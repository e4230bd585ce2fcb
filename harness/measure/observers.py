"""Combining observers: several measurements may listen to one sampling call."""

from __future__ import annotations

from torch import Tensor

from arvbench.adapters.base import Observer, StepOutput
from arvbench.adapters.schedule import Step


class Observers:
    """Passes every event on; begin events in the order given, end events in reverse."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def step_begin(self, step: Step) -> None:
        for observer in self._observers:
            observer.step_begin(step)

    def step_end(self, step: Step, output: StepOutput) -> None:
        for observer in reversed(self._observers):
            observer.step_end(step, output)

    def decode_begin(self) -> None:
        for observer in self._observers:
            observer.decode_begin()

    def decode_end(self, decoded: Tensor) -> None:
        for observer in reversed(self._observers):
            observer.decode_end(decoded)
