"""Training of a next-scale transformer on tokens.

Shapes   N images, l tokens of one scale
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from arvbench.adapters.base import Sampler
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


def initialise(transformer: nn.Module, *, std: float = 0.02) -> None:
    """Initialise for training in place: small normal weights, zero biases, gates near zero."""
    for name, parameter in transformer.named_parameters():
        if name.endswith("scale_mul_1H11"):
            nn.init.constant_(parameter, 4.0).data.log_()
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
) -> tuple[list[float], list[float]]:
    """Train the sampler's transformer in place on tokens per scale, each (N, l).

    Returns the mean loss of every epoch and the held-out loss after it (natural log, per token).
    """
    transformer = sampler.modules()["transformer"]
    optimizer = torch.optim.AdamW(
        _decay_groups(transformer, settings.weight_decay), lr=settings.learning_rate, betas=(0.9, 0.95)
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
            loss = sampler.loss([t[rows] for t in tokens], labels_N[rows], generator=order)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(transformer.parameters(), settings.max_gradient_norm)
            optimizer.step()
            schedule.step()
            total += loss.item() * len(rows)
        losses.append(total / len(labels_N))
        transformer.eval()
        with torch.no_grad():
            held_out_losses.append(sampler.loss(*held_out).item())
        if progress is not None:
            numbers = {"transformer loss": losses[-1], "held-out loss": held_out_losses[-1]}
            progress(epoch + 1, settings.epochs, numbers)
    return losses, held_out_losses


def _decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Decay matrices only: not biases, embeddings, positions or modulation."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        matrix = parameter.ndim == 2 and "emb" not in name
        (decayed if matrix else free).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]
