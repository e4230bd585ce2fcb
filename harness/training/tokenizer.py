"""Training of the multi-scale residual VQ-VAE on the digits.

Shapes   B images, C code channels, V codebook entries
Range    images float [-1, 1]
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from arvbench.adapters.tokenizers.multiscale_vq import ResidualQuantizer, VqVae
from arvbench.harness.training import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerTraining:
    """How a tokenizer is trained; part of its record."""

    epochs: int = 4
    batch: int = 32
    learning_rate: float = 2e-3
    """Peak of a one-cycle cosine schedule (AdamW)."""
    weight_decay: float = 0.0
    revive_every: int = 40
    """Steps between replacements of unused codes."""
    revive_until: float = 0.6
    """Share of all steps after which unused codes are no longer replaced."""


def train_tokenizer(
    vae: VqVae,
    images_B3HW: Tensor,
    settings: TokenizerTraining,
    *,
    order: torch.Generator,
    progress: Progress | None = None,
) -> list[float]:
    """Train `vae` in place on images (N, 3, H, W) in [-1, 1]; return the mean reconstruction loss of every epoch."""
    device = vae.quant_conv.weight.device
    optimizer = torch.optim.AdamW(
        vae.parameters(), lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=settings.weight_decay
    )
    batches = -(-len(images_B3HW) // settings.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, epochs=settings.epochs, steps_per_epoch=batches, pct_start=0.1
    )
    vae.train()
    losses: list[float] = []
    for epoch in range(settings.epochs):
        total = 0.0
        for step, rows in enumerate(torch.randperm(len(images_B3HW), generator=order).split(settings.batch)):
            images = images_B3HW[rows].to(device)
            done = epoch * batches + step
            if done % settings.revive_every == 0 and done < settings.revive_until * settings.epochs * batches:
                revive_unused_codes(vae.quantize, vae.features(images).detach(), order)
            restored, quantizer_loss = vae.training_loss(images)
            restoration_loss = F.l1_loss(restored, images) + F.mse_loss(restored, images)
            optimizer.zero_grad(set_to_none=True)
            (restoration_loss + quantizer_loss).backward()
            torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += restoration_loss.item() * len(rows)
        losses.append(total / len(images_B3HW))
        if progress is not None:
            progress(epoch + 1, settings.epochs, {"tokenizer loss": losses[-1]})
    vae.eval()
    return losses


@torch.no_grad()
def revive_unused_codes(quantize: ResidualQuantizer, features_BChw: Tensor, draw: torch.Generator) -> int:
    """Move every code that none of these features uses onto one of their residuals; return how many."""
    codes = list(quantize.pyramid(features_BChw))
    used = torch.cat([code.ids_Bl.flatten() for code in codes]).bincount(minlength=quantize.config.vocab_size) > 0
    # The same number of residuals from every scale, so that coarse scales are not drowned by the finest.
    per_scale = [code.target_BCpp.permute(0, 2, 3, 1).flatten(0, 2) for code in codes]
    fewest = min(map(len, per_scale))
    pool = torch.cat([t[torch.randperm(len(t), generator=draw)[:fewest].to(t.device)] for t in per_scale])
    unused = (~used).nonzero()[:, 0]
    chosen = torch.randint(len(pool), (len(unused),), generator=draw).to(pool.device)
    quantize.embedding.weight[unused] = pool[chosen]
    return len(unused)
