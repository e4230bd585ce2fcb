"""Forms of the families whose steps yield latents: one line per family and setting that changes its arithmetic."""

from __future__ import annotations

from functools import partial

import torch
from tiny_models import tiny_flowar, tiny_himar, tiny_mar, tiny_xar

from arvbench.adapters.checkpoints import random_tensors
from arvbench.adapters.loading import meta_modules
from arvbench.adapters.sampler import ModelSpec

LATENT_FORMS = {
    "xar": (tiny_xar, {}),
    "xar unguided": (tiny_xar, {"cfg": 1.0}),
    "xar one-step": (tiny_xar, {"num_steps": 1}),
    "flowar": (tiny_flowar, {}),
    "mar": (tiny_mar, {}),
    "mar unguided": (tiny_mar, {"cfg": 1.0, "temperature": 0.9}),
    "mar token-by-token": (partial(tiny_mar, decoder_num_heads=4), {"num_iter": 16, "cfg_schedule": "constant"}),
    "mar one-pass": (tiny_mar, {"num_iter": 1}),
    "himar": (tiny_himar, {}),
    "himar unguided": (tiny_himar, {"cfg": 1.0, "re_cfg": 0.0, "temperature": 0.9}),
    "himar many-passes": (tiny_himar, {"pivot_iter": 4, "num_iter": 5, "cfg_schedule": "constant"}),
    "flowar cross": (partial(tiny_flowar, cross=True), {"num_steps": 6, "guidance": 0.5}),
}
"""Form -> the maker of its spec, and changes to the official settings."""

TINY_XAR, TINY_FLOWAR, TINY_MAR, TINY_HIMAR = tiny_xar(), tiny_flowar(), tiny_mar(), tiny_himar()
"""The models by attribute, as entries of the table of models name them."""


def weights_of(spec: ModelSpec, **changes: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return random weights of a model as the tensors of one bundle, keyed "part.name"; `changes` replace parts."""
    parts = {part: random_tensors(module, 1, torch.device("cpu")) for part, module in meta_modules(spec).items()}
    return {f"{part}.{key}": t.clone() for part, state in (parts | changes).items() for key, t in state.items()}
