"""Files of a model: those published with it, and those that a sampler was loaded from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Official weights: published file names and their Hugging Face repository."""

    transformer_file: str
    tokenizer_file: str
    hub_repo: str
    tokenizer_repo: str = ""
    """Repository of the tokenizer's file; empty means `hub_repo`."""
    transformer_nesting: tuple[tuple[str, ...], ...] = ()
    """Key paths of the transformer in training checkpoints, tried in order after a flat state dict."""
    tokenizer_nesting: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsInfo:
    """Identity of the loaded weights."""

    source: str
    """The `weights=` argument: "demo", "hub", "random:SEED" or a path."""
    random: bool
    sha256: Mapping[str, str] = field(default_factory=dict)
    """File name -> digest; empty for random weights, which the seed identifies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Borrowed:
    """A part that a model has from another one: the transformer of `spec`."""

    part: str
    spec: Any
    """The other model's ModelSpec."""
    weights: str | None
    """Of the other model, both of its files; None takes the same source as the model itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSizes:
    """Sizes derived from a model's configuration and official settings."""

    image_px: int
    num_classes: int
    steps: int
    """Transformer passes of one sampling call."""
    tokens: int
    """Tokens of one image over all steps."""
    vocab_size: int | None = None
    """Ids that a step may draw; None for a model whose steps yield latents."""
    latent_dim: int | None = None
    """Channels of the latents that steps yield; None for a model whose steps draw ids."""
