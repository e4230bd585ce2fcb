"""Names of the scaled-dot-product-attention (SDPA) kernels that ran, from torch's dispatcher."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_SDPA = "aten::scaled_dot_product_attention"
_FUSED = "aten::_scaled_dot_product_"
MATH = "math"
"""The unfused fallback: two matrix products and a softmax."""
NO_SDPA = "no SDPA call"
"""The model computes attention by other means (see the record's `kernels`)."""


class AttentionRecorder:
    """Counts the SDPA kernels of the calls made inside `with`.

    Fused kernels are operators of their own. The unfused fallback is decomposed before a dispatch mode sees it, so an
    SDPA call without a fused operator is the fallback. Operators outside of SDPA calls pass unseen: looking at each
    would double the time of small models.
    """

    def __init__(self) -> None:
        self._kernels = _KernelCounter()
        self._calls = _CallCounter(self._kernels)
        self._active = ExitStack()

    def __enter__(self) -> AttentionRecorder:
        self._active.enter_context(self._calls)
        return self

    def __exit__(self, *exc: object) -> None:
        self._active.close()

    @property
    def kernels(self) -> dict[str, int]:
        """Number of calls by kernel, such as {"flash_attention_for_cpu": 36}; MATH counts the fallback."""
        fused = dict(self._kernels.fused)
        unfused = self._calls.count - sum(fused.values())
        return fused | ({MATH: unfused} if unfused > 0 else {})

    @property
    def description(self) -> str:
        """Kernels joined by " + ", most calls first: tokenizer and transformer may use different ones."""
        kernels = self.kernels
        return " + ".join(sorted(kernels, key=lambda name: (-kernels[name], name))) or NO_SDPA


class _KernelCounter(TorchDispatchMode):
    """Counts fused attention operators."""

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)
        self.fused: Counter[str] = Counter()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Leave out torch's wrapper for compiled code, which imports the compiler: two seconds in every case."""
        return False

    def __torch_dispatch__(self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.name()
        if name == _SDPA:
            # Under inference_mode the call arrives whole: decompose it here, so that its kernel is seen too (without
            # function modes, which would compose the parts again).
            with torch._C.DisableTorchFunction(), self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        if name.startswith(_FUSED) and not name.startswith(f"{_FUSED}attention_math"):
            self.fused[name.removeprefix("aten::_scaled_dot_product_")] += 1
        return func(*args, **kwargs)


class _CallCounter(TorchFunctionMode):
    """Counts calls of F.scaled_dot_product_attention, and has another mode look at the operators inside them."""

    def __init__(self, inside: TorchDispatchMode) -> None:
        super().__init__()
        self._inside, self.count = inside, 0

    def __torch_function__(self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            self.count += 1
            with self._inside:
                return func(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))
