"""Training of a transformer on tokens.

Shapes   N images, l tokens of one group (a scale, or a forward pass)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from arvbench.harness.training import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerSettings:
    """Hyperparameters of one stage of training; part of the record."""

    epochs: int = 12
    batch: int = 64
    learning_rate: float = 3e-3
    """Peak of a one-cycle cosine schedule (AdamW)."""
    weight_decay: float = 0.05
    max_gradient_norm: float = 1.0
    initial_std: float = 0.02
    """Standard deviation of the weights before training."""


Loss = Callable[[Sequence[Tensor], Tensor, torch.Generator | None], Tensor]
"""(tokens, labels, source of randomness or None outside training) -> scalar to minimise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One pass of training over the data."""

    title: str
    settings: TransformerSettings
    loss: Loss
    parameters: Sequence[str] | None = None
    """Names of the parameters that change; None means all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSet:
    """Images as tokens, with their classes."""

    tokens: Sequence[Tensor]
    """Per group, (N, l) int64."""
    labels_N: Tensor

    def rows(self, rows: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return tokens and labels of the images with indices `rows`."""
        return [t[rows] for t in self.tokens], self.labels_N[rows]


def own_initial_values(model: nn.Module) -> dict[str, Tensor]:
    """Return the values that parts of `model` ask to be trained from, by names of parameters.

    Such a part offers `initial_values()`: name of its own parameter -> values.
    """
    return {
        f"{prefix}.{name}".lstrip("."): values
        for prefix, module in model.named_modules()
        if hasattr(module, "initial_values")
        for name, values in module.initial_values().items()
    }


def initialise(transformer: nn.Module, *, std: float) -> None:
    """Initialise for training in place: small normal weights, zero biases, gates near zero, and what parts ask for."""
    initial_values = own_initial_values(transformer)
    for name, parameter in transformer.named_parameters():
        if name in initial_values:
            parameter.data.copy_(initial_values[name])
        elif name.endswith("scale_mul_1H11"):
            nn.init.constant_(parameter, 4.0).data.log_()
        elif name.endswith("conv1d.weight"):
            nn.init.kaiming_uniform_(parameter, a=5**0.5)  # torch's own start: few taps, so not small
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            nn.init.trunc_normal_(parameter, std=std)


def train_transformer(
    transformer: nn.Module,
    stage: Stage,
    train: TokenSet,
    held_out: TokenSet,
    *,
    order: torch.Generator,
    progress: Progress | None = None,
) -> tuple[list[float], list[float]]:
    """Run one stage of training in place.

    Returns the mean training loss of every epoch and the held-out loss after it (natural log, per token).
    """
    settings, images = stage.settings, len(train.labels_N)
    parameters = dict(transformer.named_parameters())
    trained = {name: parameters[name] for name in (parameters if stage.parameters is None else stage.parameters)}
    optimizer = torch.optim.AdamW(
        _decay_groups(trained, settings.weight_decay), lr=settings.learning_rate, betas=(0.9, 0.95)
    )
    batches = -(-images // settings.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, epochs=settings.epochs, steps_per_epoch=batches, pct_start=0.1
    )
    losses, held_out_losses = [], []
    for epoch in range(settings.epochs):
        transformer.train()
        total = 0.0
        for rows in torch.randperm(images, generator=order).split(settings.batch):
            step_loss = stage.loss(*train.rows(rows), order)
            transformer.zero_grad(set_to_none=True)
            step_loss.backward()
            torch.nn.utils.clip_grad_norm_(trained.values(), settings.max_gradient_norm)
            optimizer.step()
            schedule.step()
            total += step_loss.item() * len(rows)
        losses.append(total / images)
        transformer.eval()
        with torch.no_grad():
            held_out_losses.append(stage.loss(held_out.tokens, held_out.labels_N, None).item())
        if progress is not None:
            numbers = {f"{stage.title} loss": losses[-1], "held-out loss": held_out_losses[-1]}
            progress(epoch + 1, settings.epochs, numbers)
    return losses, held_out_losses


def _decay_groups(parameters: Mapping[str, nn.Parameter], weight_decay: float) -> list[dict[str, object]]:
    """Decay matrices only: not biases, embeddings, positions or modulation."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in parameters.items():
        matrix = parameter.ndim == 2 and "emb" not in name
        (decayed if matrix else free).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]
