"""Training of a transformer on tokens.

Shapes   N images, l tokens of one group (a scale, or a forward pass)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from arvbench.adapters.sampler import Sampler
from arvbench.harness.training import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerTraining:
    """How a transformer is trained; part of its record."""

    epochs: int = 12
    batch: int = 64
    learning_rate: float = 3e-3
    """Peak of a one-cycle cosine schedule (AdamW)."""
    weight_decay: float = 0.05
    max_gradient_norm: float = 1.0
    initial_std: float = 0.02
    """Of the weights before training."""


Loss = Callable[[Sequence[Tensor], Tensor, torch.Generator | None], Tensor]
"""(tokens, labels, source of randomness or None outside training) -> scalar to minimise."""


def initialise(transformer: nn.Module, *, std: float) -> None:
    """Initialise for training in place: small normal weights, zero biases, gates near zero.

    A module whose parameters start elsewhere offers `initial_values()`: name of its own parameter -> values.
    """
    given = {
        f"{prefix}.{name}".lstrip("."): values
        for prefix, module in transformer.named_modules()
        if hasattr(module, "initial_values")
        for name, values in module.initial_values().items()
    }
    for name, parameter in transformer.named_parameters():
        if name in given:
            parameter.data.copy_(given[name])
        elif name.endswith("scale_mul_1H11"):
            nn.init.constant_(parameter, 4.0).data.log_()
        elif name.endswith("conv1d.weight"):
            nn.init.kaiming_uniform_(parameter, a=5**0.5)  # torch's own start: few taps, so not small
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            nn.init.trunc_normal_(parameter, std=std)


def train_transformer(
    sampler: Sampler,
    tokens: Sequence[Tensor],
    labels_N: Tensor,
    settings: TransformerTraining,
    *,
    held_out: tuple[Sequence[Tensor], Tensor],
    order: torch.Generator,
    progress: Progress | None = None,
    loss: Loss | None = None,
    trained: Sequence[str] | None = None,
    title: str = "transformer",
) -> tuple[list[float], list[float]]:
    """Train the sampler's transformer in place on tokens per group, each (N, l).

    `loss` is the sampler's own unless given; `trained` names the parameters that change (None: all). Returns the mean
    loss of every epoch and the held-out loss after it (natural log, per token).
    """
    transformer = sampler.modules()["transformer"]
    loss = loss or (lambda tokens, labels, generator: sampler.loss(tokens, labels, generator=generator))
    parameters = dict(transformer.named_parameters())
    chosen = {name: parameters[name] for name in (parameters if trained is None else trained)}
    optimizer = torch.optim.AdamW(
        _decay_groups(chosen, settings.weight_decay), lr=settings.learning_rate, betas=(0.9, 0.95)
    )
    batches = -(-len(labels_N) // settings.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, epochs=settings.epochs, steps_per_epoch=batches, pct_start=0.1
    )
    losses, held_out_losses = [], []
    for epoch in range(settings.epochs):
        transformer.train()
        total = 0.0
        for rows in torch.randperm(len(labels_N), generator=order).split(settings.batch):
            step_loss = loss([t[rows] for t in tokens], labels_N[rows], order)
            transformer.zero_grad(set_to_none=True)
            step_loss.backward()
            torch.nn.utils.clip_grad_norm_(chosen.values(), settings.max_gradient_norm)
            optimizer.step()
            schedule.step()
            total += step_loss.item() * len(rows)
        losses.append(total / len(labels_N))
        transformer.eval()
        with torch.no_grad():
            held_out_losses.append(loss(*held_out, None).item())
        if progress is not None:
            numbers = {f"{title} loss": losses[-1], "held-out loss": held_out_losses[-1]}
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
