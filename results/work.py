"""Work of one sampling call: what a speed-up can come from, whatever the hardware makes of it."""

from __future__ import annotations

from arvbench.results.machine import Frozen


class CaseWork(Frozen):
    """Totals of one call of the case's batch."""

    forward_passes: int
    tokens_forwarded: int
    """Tokens that enter the transformer, over rows and passes."""
    layer_tokens: int
    """Tokens that a layer computes, over rows, passes and layers."""
    attention_pairs: int
    """Pairs of a query and a key, over rows, passes, layers and heads."""
