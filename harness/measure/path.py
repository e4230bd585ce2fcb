"""One call as the check of correctness sees it: its steps recorded, and its noise led along another call's path.

Shapes   B images, l tokens of one step, V codebook entries, K latent channels
"""

from __future__ import annotations

import torch
from torch import Tensor

from arvbench.adapters.call import SilentObserver, StepOutput
from arvbench.adapters.sampling import PerImageNoise
from arvbench.adapters.schedule import Step
from arvbench.harness.measure.integrity import ProductCounter, require_plain

CHECK_SEED = 20240403
"""Run seed of the check's noise, apart from those of timing and quality."""


class StepRecorder(SilentObserver):
    """Records tokens and logits of every step as they are when it ends, and tells which scope is open.

    Logits are kept on the CPU, so that the check does not fill the device.
    """

    def __init__(self, products: ProductCounter) -> None:
        self._products = products
        self.drawn: list[Tensor] = []
        self.redrawn: list[Tensor | None] = []
        self.guided: list[Tensor] = []
        self.predicted: list[int] = []
        """Steps that predict tokens for the first time: a teacher-forced pass does not refine tokens."""
        self.conditional: list[Tensor] = []
        """Conditional logits of the steps in `predicted`."""

    def step_begin(self, step: Step) -> None:
        self._products.open = f"step[{step.index}]"

    def step_end(self, step: Step, output: StepOutput) -> None:
        self._products.open = None
        require_plain("tokens and logits of a step", output.tokens, output.logits, output.logits_pre_cfg)
        self.drawn.append(output.tokens.clone())
        self.redrawn.append(output.redrawn)
        self.guided.append(kept(output.logits))
        if step.kind != "mask":
            self.predicted.append(step.index)
            self.conditional.append(kept(output.logits_pre_cfg[: len(output.logits)]))

    def decode_begin(self) -> None:
        self._products.open = "decode"

    def decode_end(self, decoded: Tensor) -> None:
        self._products.open = None


def kept(logits: Tensor) -> Tensor:
    """Copy logits to the CPU in fp32: what is filled in later must not count."""
    return logits.to("cpu", torch.float32, copy=True)


class NotANumber(Exception):
    """Logits from which no token can be drawn."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step


class CheckedNoise(PerImageNoise):
    """Refuses to draw from NaN, which would give an id outside the codebook and an obscure error later."""

    def tokens(self, logits_BlV: Tensor, step: int, *, one_by_one: bool = False) -> Tensor:
        if logits_BlV.isnan().any():
            raise NotANumber(step)
        return super().tokens(logits_BlV, step, one_by_one=one_by_one)

    def accept(self, ids_Bl: Tensor, failed_Bl: Tensor, step: int) -> Tensor:
        if failed_Bl.any():
            raise NotANumber(step)
        return super().accept(ids_Bl, failed_Bl, step)

    def latents(self, denoised_BlK: Tensor, step: int) -> Tensor:
        if denoised_BlK.isnan().any():
            raise NotANumber(step)
        return super().latents(denoised_BlK, step)


class GuidedNoise(CheckedNoise):
    """Records the tokens that it draws, and returns those of the judge, so that the sampler stays on the path."""

    def __init__(self, path: StepRecorder) -> None:
        super().__init__(CHECK_SEED, range(len(path.drawn[0])))
        self._path = path
        self.drawn: list[Tensor] = []

    def tokens(self, logits_BlV: Tensor, step: int, *, one_by_one: bool = False) -> Tensor:
        self.drawn.append(super().tokens(logits_BlV, step, one_by_one=one_by_one))
        return self._path.drawn[step].to(logits_BlV.device)

    def accept(self, ids_Bl: Tensor, failed_Bl: Tensor, step: int) -> Tensor:
        self.drawn.append(super().accept(ids_Bl, failed_Bl, step))
        return self._path.drawn[step].to(ids_Bl.device)

    def latents(self, denoised_BlK: Tensor, step: int) -> Tensor:
        return self._path.drawn[step].to(super().latents(denoised_BlK, step))

    def redrawn(self, positions_Bn: Tensor, step: int) -> Tensor:
        """Return the judge's positions: with others, all later steps would have other inputs."""
        judges_Bn = self._path.redrawn[step]
        assert judges_Bn is not None
        return judges_Bn.to(positions_Bn.device)
