"""Forms of the families whose steps yield latents: one line per family and setting that changes its arithmetic."""

from __future__ import annotations

from functools import partial

from tiny_models import tiny_flowar, tiny_xar

LATENT_FORMS = {
    "xar": (tiny_xar, {}),
    "xar unguided": (tiny_xar, {"cfg": 1.0}),
    "xar one-step": (tiny_xar, {"num_steps": 1}),
    "flowar": (tiny_flowar, {}),
    "flowar cross": (partial(tiny_flowar, cross=True), {"num_steps": 50, "guidance": 0.5}),
}
"""Form -> the maker of its spec, and changes to the official settings."""
