"""Training of a tokenizer on the digits: the multi-scale residual VQ-VAE, a VQ model of one resolution, or a KL VAE.

Shapes   B images, C code channels, V codebook entries
Range    images float [-1, 1]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arvbench.harness.training import Progress


class Quantizer(Protocol):
    """The codebook of a tokenizer."""

    embedding: nn.Embedding

    def targets(self, features_BChw: Tensor) -> Sequence[tuple[Tensor, Tensor]]:
        """Return the quantised vectors (n, C) of every scale with the ids (n,) of their nearest codes."""
        ...


class Tokenizer(Protocol):
    """Interface of a trainable tokenizer, a module."""

    quantize: Quantizer | None
    """None for latents without a codebook."""

    def features(self, images_B3HW: Tensor) -> Tensor: ...

    def coarser(self, features_BChw: Tensor, side: int) -> Tensor:
        """Return the latents that one of `TokenizerSettings.sides` asks for."""
        ...

    def training_loss(self, images_B3HW: Tensor, side: int | None = None) -> tuple[Tensor, Tensor]:
        """Return the reconstruction, not clamped, and the loss of the latents (scalar): that of the quantizer, or the
        divergence from a normal distribution. `side` resizes the latents.
        """
        ...

    def parameters(self) -> Iterator[nn.Parameter]: ...
    def train(self) -> object: ...
    def eval(self) -> object: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerSettings:
    """Hyperparameters of a tokenizer's training; part of the record."""

    epochs: int = 4
    batch: int = 32
    learning_rate: float = 2e-3
    """Peak of a one-cycle cosine schedule (AdamW)."""
    weight_decay: float = 0.0
    revive_every: int = 40
    """Steps between replacements of unused codes."""
    revive_until: float = 0.6
    """Fraction of all steps after which unused codes are no longer replaced."""
    sides: tuple[int, ...] = ()
    """Latent sides to restore images from, or numbers of latents that form no map, one drawn per step; empty means the
    full size only.
    """


def train_tokenizer(
    tokenizer: Tokenizer,
    images_B3HW: Tensor,
    settings: TokenizerSettings,
    *,
    order: torch.Generator,
    progress: Progress | None = None,
) -> list[float]:
    """Train `tokenizer` in place on images (N, 3, H, W) in [-1, 1].

    Returns the mean reconstruction loss of every epoch.
    """
    device = next(tokenizer.parameters()).device
    optimizer = torch.optim.AdamW(
        tokenizer.parameters(), lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=settings.weight_decay
    )
    batches = -(-len(images_B3HW) // settings.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, epochs=settings.epochs, steps_per_epoch=batches, pct_start=0.1
    )
    tokenizer.train()
    losses: list[float] = []
    for epoch in range(settings.epochs):
        total = 0.0
        for step, rows in enumerate(torch.randperm(len(images_B3HW), generator=order).split(settings.batch)):
            images = images_B3HW[rows].to(device)
            done = epoch * batches + step
            due = done % settings.revive_every == 0 and done < settings.revive_until * settings.epochs * batches
            if due and tokenizer.quantize is not None:
                targets = _targets(tokenizer, tokenizer.quantize, images, settings.sides)
                revive_unused_codes(tokenizer.quantize, targets, order)
            side = _draw(settings.sides, order)
            restored, quantizer_loss = tokenizer.training_loss(images, side)
            target = images if side is None else F.interpolate(images, size=restored.shape[2:], mode="area")
            restoration_loss = F.l1_loss(restored, target) + F.mse_loss(restored, target)
            optimizer.zero_grad(set_to_none=True)
            (restoration_loss + quantizer_loss).backward()
            torch.nn.utils.clip_grad_norm_(tokenizer.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += restoration_loss.item() * len(rows)
        losses.append(total / len(images_B3HW))
        if progress is not None:
            progress(epoch + 1, settings.epochs, {"tokenizer loss": losses[-1]})
    tokenizer.eval()
    return losses


@torch.no_grad()
def _targets(
    tokenizer: Tokenizer, codebook: Quantizer, images: Tensor, sides: Sequence[int]
) -> list[tuple[Tensor, Tensor]]:
    """Return the vectors quantised at every latent side of the training: a code may serve coarse maps only."""
    features_BChw = tokenizer.features(images)
    resized = [tokenizer.coarser(features_BChw, side) for side in sorted(set(sides))] or [features_BChw]
    return [target for features in resized for target in codebook.targets(features)]


def _draw(sides: Sequence[int], draw: torch.Generator) -> int | None:
    return sides[int(torch.randint(len(sides), (1,), generator=draw))] if sides else None


@torch.no_grad()
def revive_unused_codes(quantize: Quantizer, targets: Sequence[tuple[Tensor, Tensor]], draw: torch.Generator) -> int:
    """Move every code unused by the `targets` (`Quantizer.targets`) onto one of them; return the number moved."""
    codes_VC = quantize.embedding.weight
    used = torch.cat([ids for _, ids in targets]).bincount(minlength=len(codes_VC)) > 0
    # Equally many vectors from every scale: the finest would drown the others.
    per_scale = [vectors for vectors, _ in targets]
    fewest = min(map(len, per_scale))
    pool = torch.cat([t[torch.randperm(len(t), generator=draw)[:fewest].to(t.device)] for t in per_scale])
    unused = (~used).nonzero()[:, 0]
    chosen = torch.randint(len(pool), (len(unused),), generator=draw).to(pool.device)
    codes_VC[unused] = pool[chosen]
    return len(unused)
