"""A checkout that looks like FoundationVision/VAR to `arvbench versus`, with our own modules behind its names."""

from __future__ import annotations

from pathlib import Path

VQVAE = """
from torch import nn
from arvbench.adapters.tokenizers.multiscale_vq import VqVae, VqVaeConfig

class VQVAE(VqVae):
    def __init__(self, *, test_mode, **arguments):
        super().__init__(VqVaeConfig(**arguments, ch_mult=(1, 1, 1), num_res_blocks=1))

    def fhat_to_img(self, f_hat):
        return self.decode_map(f_hat)
"""
PARTS = """
from arvbench.adapters.tokenizers import autoencoder

def Encoder(*, double_z, **sizes):
    return autoencoder.Encoder(**sizes)

Decoder = lambda **sizes: autoencoder.Decoder(**sizes)
"""
VAR = """
import torch
from arvbench.adapters.call import SilentObserver
from arvbench.adapters.registry import MODELS
from arvbench.adapters.sampler import WeightsInfo
from arvbench.adapters.sampling import UpstreamNoise
from arvbench.adapters.next_scale.transformer import NextScaleConfig, NextScaleTransformer

class VAR(NextScaleTransformer):
    def __init__(self, vae_local, **arguments):
        super().__init__(NextScaleConfig(**arguments, vocab_size=256, code_dim=16))
        self.vae = [vae_local]

    def autoregressive_infer_cfg(self, *, B, label_B, g_seed, cfg, top_k, top_p):
        spec, (vae,) = MODELS["demo/var"], self.vae
        parts = {"transformer": self, "tokenizer": vae}
        info = WeightsInfo(source="fake", random=False, sha256={})
        where = {"device": torch.device("cpu"), "dtype": torch.float32}
        sampler = spec.sampler(spec, parts, weights=info, backend="reference", **where)
        settings = spec.settings.replace(cfg=cfg, top_k=top_k or None, top_p=top_p or None)
        states = []
        class Last(SilentObserver):
            def step_end(self, step, output):
                states[:] = [output.state]
        ids = sampler.sample(label_B, settings, noise=UpstreamNoise(g_seed), observer=Last()).tokens
        for group in ids:
            vae.quantize.embedding(group ANOTHER_ID)
        return vae.fhat_to_img(states[0]).add(1).mul(0.5)
"""


def make_upstream(folder: Path, *, wrong: bool = False, needs: str = "") -> Path:
    """Write the checkout; `wrong` changes every id, `needs` is a package that it imports."""
    models = folder / "models"
    models.mkdir(parents=True)
    head = f"import {needs}\n" if needs else ""
    (models / "var.py").write_text(head + VAR.replace("ANOTHER_ID", "^ 1" if wrong else ""))
    (models / "vqvae.py").write_text(VQVAE)
    (models / "basic_vae.py").write_text(PARTS)
    (models / "basic_var.py").write_text("")
    (folder / "dist.py").write_text("")
    return folder
