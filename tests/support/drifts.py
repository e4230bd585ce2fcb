"""Drift for tests, made up."""

from __future__ import annotations

from typing import Any

from arvbench.results.drift import Average, Drift, DriftStep


def drift(**changes: Any) -> Drift:
    """Make the drift of four images, one of them identical."""
    half = Average(mean=0.5, interval=(0.25, 0.75))
    made: dict[str, Any] = {
        "against": "static",
        "images": 4,
        "seed": 1,
        "temperature": 0.7,
        "top_k": 900,
        "top_p": None,
        "steps": (DriftStep(step=0, name="scale 1x1", forced_agreement=1, free_agreement=1, kl=0),),
        "forced_agreement": half,
        "free_agreement": half,
        "kl": half,
        "first_diverging": (2, 4, None, 3),
        "identical_images": 1,
        "psnr_db": Average(mean=30, interval=(20, 40)),
        "ssim": half,
        "ssim_library": "made up",
    }
    return Drift(**made | changes)


def latent_drift(**changes: Any) -> Drift:
    """Make the drift of four images whose steps yield latents."""
    tenth = Average(mean=0.1, interval=(0.05, 0.2))
    none = dict.fromkeys(("forced_agreement", "free_agreement", "kl"))
    step = DriftStep(step=0, name="cell", forced_distance=0.1, free_distance=0.1)
    of_latents = {"steps": (step,), "forced_distance": tenth, "free_distance": tenth, "first_diverging": ()}
    return drift(**none | of_latents | changes)
