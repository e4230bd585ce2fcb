"""Snake: LlamaGen with another path through the token map, every second line from right to left.

Each token then follows one that it touches. The transformer, the tokenizer and the caches are arvbench's.
"""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

from arvbench.adapters.sampler import ModelSpec
from arvbench.adapters.token_grid.llama import LlamaConfig
from arvbench.adapters.token_grid.passes import LEARNT, Pass
from arvbench.adapters.token_grid.sampler import DEMO_TOKENIZER, TokenGridSampler, TokenGridSettings


def snake(grid: int) -> list[int]:
    """Raster positions of a grid x grid map in the order of drawing."""
    lines = [range(row * grid, (row + 1) * grid) for row in range(grid)]
    return [position for row, line in enumerate(lines) for position in (line if row % 2 == 0 else reversed(line))]


class SnakeSampler(TokenGridSampler):
    """One token per pass: the class token is fed first, then each token that was drawn, but the last one."""

    family: ClassVar = "snake"

    @staticmethod
    def passes(config: LlamaConfig) -> list[Pass]:
        path = [LEARNT, *snake(config.grid)]
        return [
            Pass(kind="token", feeds=(fed,), draws=(drawn,), clock=number or None)
            for number, (fed, drawn) in enumerate(pairwise(path))
        ]

    @staticmethod
    def unfed(config: LlamaConfig) -> tuple[int, ...]:
        return ()


SPEC = ModelSpec(
    name="snake/tiny",
    sampler=SnakeSampler,
    transformer=LlamaConfig(dim=96, n_layer=2, n_head=3, block_size=64, num_classes=10, vocab_size=64, multiple_of=32),
    tokenizer=DEMO_TOKENIZER,
    settings=TokenGridSettings(cfg=1.5),
    settings_source="chosen for this example",
    no_recipe="nobody has published it",
)
