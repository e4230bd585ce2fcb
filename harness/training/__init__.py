"""Training of what the package ships: demo models and the offline feature extractor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from arvbench.registry import Registry

Progress = Callable[[int, int, Mapping[str, float]], None]
"""Called after each epoch with (epochs done, epochs in total, numbers of that epoch)."""

# Each is called as train(out_dir, device=..., progress=...) and returns the record that it also wrote into out_dir.
TRAININGS: Registry[Callable[..., dict[str, Any]]] = Registry(
    "training",
    {
        "demo/var": "arvbench.harness.training.demo:train_var",
        "demo/mvar": "arvbench.harness.training.demo:train_mvar",
        "demo/hmar": "arvbench.harness.training.demo:train_hmar",
        "demo/nar": "arvbench.harness.training.demo:train_nar",
        "demo/flexvar": "arvbench.harness.training.demo:train_flexvar",
        "demo/llamagen": "arvbench.harness.training.demo:train_llamagen",
        "demo/par": "arvbench.harness.training.demo:train_par",
        "digits-cnn": "arvbench.harness.training.classifier:train_digits_cnn",
    },
)
