"""Forward passes of models that draw the tokens of one image pass by pass, and the tables that they share.

Shapes   l tokens of one pass, L tokens fed in training, N tokens of an image, P rotation pairs
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LEARNT = -1
"""Placeholder for a learnt token (class, special token) in a list of positions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One forward pass. Positions are raster indices of the token map, or the order of tokens that form no map."""

    kind: str
    """`Step.kind`."""
    feeds: tuple[int, ...]
    """Positions of its input tokens, or LEARNT."""
    draws: tuple[int, ...]
    """Positions of the drawn tokens."""
    clock: int | None
    """Value compared with `cfg_interval`; None: guidance is always on."""
    rotary: tuple[int, ...] | None = None
    """Rows of the rotary table for the input tokens, where they are not `feeds`."""

    @property
    def rows(self) -> tuple[int, ...]:
        """Row of the rotary table for every input token."""
        return self.feeds if self.rotary is None else self.rotary


@dataclass(frozen=True, slots=True, kw_only=True)
class PassPlan:
    """Tables of a model's passes, on its device; built once per sampler, and equal in all calls that draw as much."""

    passes: tuple[Pass, ...]
    ropes: tuple[Tensor, ...]
    """Rows (l, P, 2) of the rotary table, per pass."""
    order_N: Tensor
    """Position of the k-th token drawn."""
    raster_N: Tensor
    """Inverse of `order_N`: draw index of every position."""
    trained: tuple[int, ...]
    """Positions read by the official training pass: all positions fed in sampling, in some families also others."""
    trained_rope_LP2: Tensor
    trained_mask_LL: Tensor
    """Boolean: a token attends to the tokens fed in its own and earlier passes."""


def make_pass_plan(table: Tensor, passes: Sequence[Pass], unfed: Sequence[int]) -> PassPlan:
    """Make the plan of `passes`, whose positions turn by the rows of `table`.

    Training reads the positions `unfed` after them, as one more group.
    """
    device = table.device
    groups = [(p.feeds, p.rows) for p in passes] + ([(tuple(unfed), tuple(unfed))] if unfed else [])
    number_L = torch.tensor([i for i, (group, _) in enumerate(groups) for _ in group], device=device)
    order_N = torch.tensor([position for p in passes for position in p.draws], device=device)
    return PassPlan(
        passes=tuple(passes),
        ropes=tuple(table[list(p.rows)] for p in passes),
        order_N=order_N,
        raster_N=order_N.argsort(),
        trained=tuple(position for group, _ in groups for position in group),
        trained_rope_LP2=table[[row for _, rows in groups for row in rows]],
        trained_mask_LL=number_L[:, None] >= number_L[None],
    )


def line_ends(passes: Sequence[Pass], grid: int) -> tuple[int, ...]:
    """Passes that feed the last tokens of a line: those after which the next pass feeds a new line's first one.

    The tokens that are fed together lie at equal places in their regions, so the smallest position tells the line.
    PAR begins with one token of every region, on lines that do not follow each other.
    """
    columns = [min((at for at in p.feeds if at != LEARNT), default=LEARNT) for p in passes]
    lines = [at // grid if at != LEARNT else -1 for at in columns]
    return tuple(n for n in range(1, len(lines) - 1) if lines[n + 1] == lines[n] + 1 > 0)
