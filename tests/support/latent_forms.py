"""Forms of the families whose steps yield latents: one line per family and setting that changes its arithmetic."""

from __future__ import annotations

from functools import partial

from tiny_models import tiny_flowar, tiny_himar, tiny_mar, tiny_xar

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
    "flowar cross": (partial(tiny_flowar, cross=True), {"num_steps": 50, "guidance": 0.5}),
}
"""Form -> the maker of its spec, and changes to the official settings."""
