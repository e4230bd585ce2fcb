"""Description of a model without its weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from arvbench.adapters.model_files import Borrowed, Checkpoint
from arvbench.adapters.settings import SamplingSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """Description of one model without its weights. The sampler class derives the sizes (`Sampler.sizes`)."""

    name: str
    sampler: type[Any]
    """The family's adapter, a subclass of `Sampler`, which builds the modules and samples."""
    transformer: Any
    """Transformer configuration, a frozen dataclass of the family."""
    tokenizer: Any
    """Tokenizer configuration, a frozen dataclass."""
    settings: SamplingSettings
    """The official sampling settings."""
    settings_source: str
    """Publication that states the settings."""
    checkpoint: Checkpoint | None = None
    """None for a model without released weights."""
    demo: bool = False
    """True when this package contains trained weights."""
    no_recipe: str = ""
    """Reason why this model has no official sampling recipe; empty when it has one."""
    plain: ModelSpec | None = None
    """The model whose schedule a method changes (adapters.methods); None without a method."""
    borrows: tuple[Borrowed, ...] = ()
    image_px: int = field(init=False)
    num_classes: int = field(init=False)
    steps: int = field(init=False)
    tokens: int = field(init=False)
    vocab_size: int | None = field(init=False)
    """Ids that a step may draw; None where steps yield latents."""
    latent_dim: int | None = field(init=False)
    """Channels of the latents that steps yield; None where steps draw ids."""

    def __post_init__(self) -> None:
        for name, size in asdict(self.sampler.sizes(self)).items():
            object.__setattr__(self, name, size)

    @property
    def family(self) -> str:
        name: str = self.sampler.family
        return name
