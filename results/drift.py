"""Distance of a lossy case's samples from those of an exact one, image by image on the same noise.

Units    _db decibels; kl nats
"""

from __future__ import annotations

from arvbench.results.machine import Frozen


class Average(Frozen):
    """Mean over images with its 95 % interval, a bootstrap over images."""

    mean: float
    interval: tuple[float, float]


class DriftStep(Frozen):
    """One step; agreement is the share of equal tokens, 0..1. A step that yields latents has their distance instead:
    the root mean square of the difference, as a share of that of the exact case's latents.
    """

    step: int
    name: str
    forced_agreement: float | None = None
    """Along the static cache's tokens: one early difference does not hide the rest."""
    free_agreement: float | None = None
    """Each side on its own tokens."""
    kl: float | None = None
    """Kullback-Leibler divergence of the guided logits from the static cache's, before filters and temperature: mean
    over tokens, along the static cache's tokens."""
    forced_distance: float | None = None
    """Along the exact case's latents."""
    free_distance: float | None = None
    """Each side on its own latents."""


class Drift(Frozen):
    """Comparison of a lossy case with an exact one."""

    against: str
    """Exact case that it is compared with: its cache policy, and where these differ the method that is left out or the
    dtype."""
    images: int
    seed: int
    """Run seed of the noise."""
    temperature: float
    """Divides the guided logits; PSNR moves by decibels with it."""
    temperatures: tuple[float, ...] | None = None
    """Of every step, where a method has them; they replace `temperature`."""
    top_k: int | None
    top_p: float | None
    steps: tuple[DriftStep, ...]
    forced_agreement: Average | None = None
    free_agreement: Average | None = None
    kl: Average | None = None
    forced_distance: Average | None = None
    """Of the latents of all steps; None for tokens, as the three above are for latents."""
    free_distance: Average | None = None
    first_diverging: tuple[int | None, ...] = ()
    """Per image, the first step whose freely drawn tokens differ; None for an image that never does."""
    identical_images: int
    """Images whose bytes are equal; their PSNR is infinite, and they are left out of `psnr_db`."""
    psnr_db: Average | None
    """None when all images are identical."""
    ssim: Average
    ssim_library: str
    lpips: Average | None = None
    lpips_library: str = ""
    """Library, network and digest of its weights; "" without LPIPS."""
    lpips_note: str = ""
    """Reason why there is no LPIPS."""
