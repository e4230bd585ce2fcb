"""Training of a tokenizer in two phases: first the codes, then a decoder that draws.

A diffusion model that decodes can do without codes that still tell it little, and such codes get little gradient: both
stay there when they are trained together. Codes are trained here with a linear decoder, of no further use; the
tokenizer's own is trained on codes that no longer change.

Shapes   B images, D code channels, N codes of an image, V codebook entries
Range    images float [-1, 1]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arvbench.harness.training import Progress
from arvbench.harness.training.tokenizer import Quantizer, revive_unused_codes

_KMEANS_ROUNDS = 10


class MapQuantizer(Quantizer, Protocol):
    """A codebook whose codes have the scale of normalised features."""

    def before_quantisation(self, z_BChw: Tensor) -> Tensor: ...
    def straight_through(self, z_BChw: Tensor) -> tuple[Tensor, Tensor]: ...
    def lookup(self, ids_Bl: Tensor, side: tuple[int, int]) -> Tensor: ...


class DrawingTokenizer(Protocol):
    """Interface of a tokenizer whose decoder draws, a module."""

    quantize: MapQuantizer

    def features(self, images_B3HW: Tensor) -> Tensor:
        """Return (B, D, 1, N)."""
        ...

    def encode(self, images_B3HW: Tensor) -> Tensor: ...

    def decoding_loss(self, images_B3HW: Tensor, codes_BD1N: Tensor, *, patches: int, draw: torch.Generator) -> Tensor:
        """Return the loss (scalar) of the decoder on `patches` of every image."""
        ...

    def decode_parts(self) -> tuple[nn.Module, ...]: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...
    def train(self) -> object: ...
    def eval(self) -> object: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoPhaseSettings:
    """Hyperparameters of both phases; part of the record. Both have a one-cycle cosine schedule (AdamW)."""

    codes_epochs: int = 5
    codes_batch: int = 64
    codes_learning_rate: float = 6e-3
    continuous: float = 0.4
    """Fraction of the first phase before features are quantised; the codebook starts from their k-means."""
    revive_every: int = 40
    """Steps between replacements of unused codes."""
    revive_until: float = 0.8
    """Fraction of the first phase after which unused codes are no longer replaced."""
    parts: int = 2
    """The linear decoder gets the first 1 to `parts` equal parts of the codes, drawn per image."""
    epochs: int = 14
    """Of the second phase, as what follows."""
    batch: int = 32
    learning_rate: float = 4e-3
    patches: int = 16
    """Patches of an image that one step computes."""


def train_in_two_phases(
    tokenizer: DrawingTokenizer,
    images_B3HW: Tensor,
    settings: TwoPhaseSettings,
    *,
    order: torch.Generator,
    progress: Progress | None = None,
) -> dict[str, list[float]]:
    """Train `tokenizer` in place on images (N, 3, H, W); return the mean losses of every epoch of both phases."""
    tokenizer.train()
    losses = {
        "codes_losses": _train_codes(tokenizer, images_B3HW, settings, order, progress),
        "tokenizer_losses": _train_decoder(tokenizer, images_B3HW, settings, order, progress),
    }
    tokenizer.eval()
    return losses


def _train_codes(
    tokenizer: DrawingTokenizer,
    images_B3HW: Tensor,
    settings: TwoPhaseSettings,
    order: torch.Generator,
    progress: Progress | None,
) -> list[float]:
    codebook, device = tokenizer.quantize, next(tokenizer.parameters()).device
    with torch.no_grad():
        channels, count = tokenizer.features(images_B3HW[:1].to(device))[0].flatten(1).shape
    linear = nn.Linear(channels * count, images_B3HW[0].numel()).to(device)
    steps = -(-len(images_B3HW) // settings.codes_batch)
    of_decoder = {id(p) for part in tokenizer.decode_parts() for p in part.parameters()}
    trained = [p for p in tokenizer.parameters() if id(p) not in of_decoder] + list(linear.parameters())
    step = _Steps(trained, settings.codes_learning_rate, settings.codes_epochs * steps)
    start = round(settings.continuous * settings.codes_epochs * steps)

    def train(rows: Tensor) -> float:
        images = images_B3HW[rows].to(device)
        if step.done == start:
            start_codebook(codebook, _vectors(tokenizer, images_B3HW), order)
        elif step.done % settings.revive_every == 0 and start < step.done < settings.revive_until * step.total:
            with torch.no_grad():
                revive_unused_codes(
                    codebook, codebook.targets(tokenizer.features(images_B3HW[:1024].to(device))), order
                )
        features_BD1N = tokenizer.features(images)
        if step.done < start:
            codes_BD1N, loss = codebook.before_quantisation(features_BD1N), torch.zeros((), device=device)
        else:
            codes_BD1N, loss = codebook.straight_through(features_BD1N)
        parts_B1 = torch.randint(1, settings.parts + 1, (len(rows), 1), generator=order)
        kept_BN = torch.arange(count) < parts_B1 * count // settings.parts
        restored = linear((codes_BD1N * kept_BN[:, None, None].to(device)).flatten(1))
        restoration_loss = F.mse_loss(restored, images.flatten(1))
        step(restoration_loss + loss)
        return restoration_loss.item()

    shuffled = _Epochs(len(images_B3HW), settings.codes_batch, settings.codes_epochs, order)
    return shuffled.losses(train, "loss of linear decoder", progress)


def _train_decoder(
    tokenizer: DrawingTokenizer,
    images_B3HW: Tensor,
    settings: TwoPhaseSettings,
    order: torch.Generator,
    progress: Progress | None,
) -> list[float]:
    device = next(tokenizer.parameters()).device
    with torch.no_grad():
        ids_Bl = torch.cat([tokenizer.encode(batch.to(device)) for batch in images_B3HW.split(256)])
        codes_BD1N = tokenizer.quantize.lookup(ids_Bl, (1, ids_Bl.shape[1]))
    trained = [p for part in tokenizer.decode_parts() for p in part.parameters()]
    step = _Steps(trained, settings.learning_rate, settings.epochs * -(-len(images_B3HW) // settings.batch))

    def train(rows: Tensor) -> float:
        images, codes = images_B3HW[rows].to(device), codes_BD1N[rows.to(device)]
        loss = tokenizer.decoding_loss(images, codes, patches=settings.patches, draw=order)
        step(loss)
        return loss.item()

    shuffled = _Epochs(len(images_B3HW), settings.batch, settings.epochs, order)
    return shuffled.losses(train, "tokenizer loss", progress)


@dataclass(frozen=True, slots=True)
class _Epochs:
    """Epochs over shuffled images in batches."""

    images: int
    batch: int
    count: int
    order: torch.Generator

    def losses(self, train: Callable[[Tensor], float], name: str, progress: Progress | None) -> list[float]:
        """Call `train` with the rows of every batch; return the mean of what it returns, by epoch."""
        losses: list[float] = []
        for epoch in range(1, self.count + 1):
            total = 0.0
            for rows in torch.randperm(self.images, generator=self.order).split(self.batch):
                total += train(rows) * len(rows)
            losses.append(total / self.images)
            if progress is not None:
                progress(epoch, self.count, {name: losses[-1]})
        return losses


class _Steps:
    """Optimizer and schedule of one phase."""

    def __init__(self, trained: Sequence[nn.Parameter], learning_rate: float, total: int) -> None:
        self.trained, self.total, self.done = trained, total, 0
        self._optimizer = torch.optim.AdamW(trained, lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer, learning_rate, total_steps=total, pct_start=0.05
        )

    def __call__(self, loss: Tensor) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self._optimizer.step()
        self._schedule.step()
        self.done += 1


@torch.no_grad()
def _vectors(tokenizer: DrawingTokenizer, images_B3HW: Tensor) -> Tensor:
    """Return the features of all images as vectors (n, D) before quantisation."""
    device = next(tokenizer.parameters()).device
    maps = [tokenizer.quantize.before_quantisation(tokenizer.features(b.to(device))) for b in images_B3HW.split(256)]
    return torch.cat(maps).permute(0, 2, 3, 1).flatten(0, 2)


@torch.no_grad()
def start_codebook(codebook: Quantizer, vectors_nD: Tensor, draw: torch.Generator, *, most: int = 16384) -> None:
    """Set the codes to the k-means of at most `most` normalised vectors, drawn at random."""
    codes_VD, device = codebook.embedding.weight, vectors_nD.device
    vectors_nD = vectors_nD[torch.randperm(len(vectors_nD), generator=draw)[:most].to(device)]

    def drawn() -> Tensor:
        return vectors_nD[torch.randint(len(vectors_nD), (len(codes_VD),), generator=draw).to(device)]

    centres_VD = drawn()
    for _ in range(_KMEANS_ROUNDS):
        nearest_n = (vectors_nD @ centres_VD.T).argmax(dim=1)
        sums_VD = torch.zeros_like(centres_VD).index_add_(0, nearest_n, vectors_nD)
        used_V1 = sums_VD.norm(dim=1, keepdim=True) > 0
        centres_VD = torch.where(used_V1, F.normalize(sums_VD, dim=1), drawn())
    codes_VD.copy_(centres_VD)
