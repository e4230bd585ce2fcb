"""The Llama-style transformer of LlamaGen; NAR and PAR reuse its blocks.

Position enters only through 2-D RoPE: half of the rotation pairs turn with the row, the other half with the column.
Learnt tokens (the class, PAR's special tokens) have no position: their rows of the rotary table are zero and turn
their queries and keys into zero vectors. Every query scores exactly 0 against a zero key.

Shapes   R forward rows, l new tokens, T tokens attended to, C width, H heads, D head channels, F hidden width,
         V codebook entries, N tokens of an image
Names    modules have the names of the official state dicts
Source   LlamaGen (arXiv:2406.06525) section 3.2; behaviour of FoundationVision/LlamaGen at ce98ec4
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arvbench.adapters.cache.policy import AttentionInput, KVCache
from arvbench.adapters.common.linear import PackableLinear
from arvbench.adapters.common.rotary import rotate
from arvbench.kernels.dispatch import KernelSet

# File entries that are not weights: the rotary table of old versions, and caches left by a generation.
_STRAY = re.compile(r"freqs_cis|layers\.\d+\.attention\.kv_cache\.[kv]_cache")


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaConfig:
    """Constructor arguments of the transformer under their official names."""

    dim: int
    n_layer: int
    n_head: int
    block_size: int = 256
    """N, a square number; the weights do not depend on it."""
    num_classes: int = 1000
    vocab_size: int = 16384
    multiple_of: int = 256
    rope_base: int = 10000
    norm_eps: float = 1e-5
    class_dropout_prob: float = 0.1

    @property
    def grid(self) -> int:
        """Side of the token map."""
        return math.isqrt(self.block_size)

    @property
    def head_dim(self) -> int:
        return self.dim // self.n_head

    @property
    def hidden(self) -> int:
        """F: two thirds of 4 C, rounded up to a multiple of `multiple_of`."""
        return -(-int(8 * self.dim / 3) // self.multiple_of) * self.multiple_of

    @property
    def blocks(self) -> int:
        """Number of transformer blocks; all have a KV cache."""
        return self.n_layer

    @property
    def heads_out(self) -> int:
        """Number of output heads, each a norm and a projection to V."""
        return 1

    def flops(self, *, rows: int, new: int, context: int) -> int:
        """FLOPs of a pass that feeds `new` tokens per row, attending to `context` tokens."""
        linear = self.blocks * (8 * self.dim**2 + 6 * self.dim * self.hidden)
        attention = self.blocks * 4 * context * self.dim
        return rows * new * (linear + attention + self.heads_out * 2 * self.dim * self.vocab_size)

    @property
    def launches(self) -> int:
        """Kernels of a pass that wait for each other: five in a block (the two products of a gate run side by side),
        the head and the draw.
        """
        return 5 * self.blocks + 2

    def weight_bytes(self, itemsize: int) -> int:
        """Bytes of the weights that every pass reads once."""
        block = self.dim * (4 * self.dim + 3 * self.hidden + 2)
        return itemsize * (self.blocks * block + self.heads_out * self.dim * (1 + self.vocab_size))


# NAR has all but 3b, LlamaGen and PAR all but m.
SIZES = {
    "b": {"dim": 768, "n_layer": 12, "n_head": 12},
    "m": {"dim": 1024, "n_layer": 18, "n_head": 16},
    "l": {"dim": 1024, "n_layer": 24, "n_head": 16},
    "xl": {"dim": 1280, "n_layer": 36, "n_head": 20},
    "xxl": {"dim": 1536, "n_layer": 48, "n_head": 24},
    "3b": {"dim": 3200, "n_layer": 24, "n_head": 32},
}
"""Arguments of the published transformers, keyed by the size in the model's name."""

DEMO_SIZES = {"dim": 96, "n_head": 3, "block_size": 64, "num_classes": 10, "vocab_size": 64, "multiple_of": 32}
"""Arguments shared by the demo models of all families: 32 px on an 8x8 map."""


def rope_table(config: LlamaConfig) -> Tensor:
    """(N + 1, D/2, 2) fp32: cosine and sine for every position of the map in raster order, then a row of zeros.

    The zero row comes last, so that index -1 selects it for learnt tokens, which have no position.
    """
    return map_table(config, config.grid, config.grid)


def map_table(config: LlamaConfig, rows: int, columns: int) -> Tensor:
    """(rows * columns + 1, D/2, 2) fp32: the table of `rope_table` for a map of other sides."""
    pairs = config.head_dim // 4
    frequencies = config.rope_base ** -(torch.arange(pairs, dtype=torch.float32) * 2 / (config.head_dim // 2))
    angles_gP = torch.outer(torch.arange(max(rows, columns), dtype=torch.float32), frequencies)
    by_row = angles_gP[:rows, None].expand(-1, columns, -1)
    by_column = angles_gP[None, :columns].expand(rows, -1, -1)
    angles_NP = torch.cat((by_row, by_column), dim=-1).flatten(0, 1)
    table = torch.stack((angles_NP.cos(), angles_NP.sin()), dim=-1)
    return torch.cat((table, torch.zeros_like(table[:1])))


class RMSNorm(nn.Module):
    """x / rms(x) in fp32, rounded to the input's dtype, then scaled."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def initial_values(self) -> dict[str, Tensor]:
        """Return initial values for training, keyed by parameter name."""
        return {"weight": torch.ones_like(self.weight)}

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return (wide * torch.rsqrt((wide * wide).mean(-1, keepdim=True) + self.eps)).to(x.dtype) * self.weight


class Attention(nn.Module):
    """Multi-head attention with rotary positions, without biases."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.heads = config.n_head
        self.wqkv = PackableLinear(config.dim, 3 * config.dim, bias=False)
        self.wo = PackableLinear(config.dim, config.dim, bias=False)

    def forward(
        self,
        x_RlC: Tensor,
        rope_lP2: Tensor,
        kernels: KernelSet,
        *,
        layer: int,
        cache: KVCache | None,
        mask_lT: Tensor | None,
    ) -> Tensor:
        """Attend to the tokens in `cache` (None: only those of x) under a boolean `mask_lT`; (R, l, C).

        A kernel of `kernels` rotates and stores keys and values itself, where the cache lets it and nothing is hidden.
        """
        rows, tokens, width = x_RlC.shape
        qkv = self.wqkv(x_RlC).view(rows, tokens, 3, self.heads, width // self.heads)
        if kernels.names["wavefront_attention"] != "torch" and cache is not None and mask_lT is None:
            slots = cache.slots(layer, tokens)
            if slots is not None:
                attended_RlC: Tensor = self.wo(kernels.wavefront_attention(qkv, rope_lP2, *slots))
                return attended_RlC
        qkv_3RHlD = qkv.permute(2, 0, 3, 1, 4)
        (q_RHlD, k_RHlD), v_RHlD = rotate(qkv_3RHlD[:2], rope_lP2), qkv_3RHlD[2]
        if cache is None:
            out = F.scaled_dot_product_attention(q_RHlD, k_RHlD, v_RHlD, attn_mask=mask_lT)
        else:
            out = cache.attend(layer, AttentionInput(q_RHlD, k_RHlD, v_RHlD, bias_llT=mask_lT))
        projected_RlC: Tensor = self.wo(out.transpose(1, 2).reshape(rows, tokens, width))
        return projected_RlC


class FeedForward(nn.Module):
    """SwiGLU: w2(silu(w1 x) * w3 x), without biases."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.w1 = PackableLinear(config.dim, config.hidden, bias=False)
        self.w3 = PackableLinear(config.dim, config.hidden, bias=False)
        self.w2 = PackableLinear(config.hidden, config.dim, bias=False)

    def forward(self, x_RlC: Tensor, kernels: KernelSet | None = None) -> Tensor:
        gate_RlF, up_RlF = self.w1(x_RlC), self.w3(x_RlC)
        if kernels is not None and kernels.names["swiglu"] != "torch":
            hidden_RlF = kernels.swiglu(gate_RlF, up_RlF)
        else:
            # In half precisions the official code rounds once more than the operation does.
            hidden_RlF = F.silu(gate_RlF) * up_RlF
        out_RlC: Tensor = self.w2(hidden_RlF)
        return out_RlC


class Block(nn.Module):
    """Attention and feed-forward, each on the normalised stream."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config)
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)

    def forward(
        self,
        x_RlC: Tensor,
        rope_lP2: Tensor,
        kernels: KernelSet,
        *,
        layer: int,
        cache: KVCache | None,
        mask_lT: Tensor | None,
    ) -> Tensor:
        h = self.attention_norm(x_RlC)
        x_RlC = x_RlC + self.attention(h, rope_lP2, kernels, layer=layer, cache=cache, mask_lT=mask_lT)
        out_RlC: Tensor = x_RlC + self.feed_forward(self.ffn_norm(x_RlC), kernels)
        return out_RlC


class ClassEmbedding(nn.Module):
    """One vector per class and one for the null class, which comes last."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(config.num_classes + 1, config.dim)

    def forward(self, labels_R: Tensor) -> Tensor:
        classes_R1C: Tensor = self.embedding_table(labels_R).unsqueeze(1)
        return classes_R1C


class Llama(nn.Module):
    """The transformer of LlamaGen; state-dict names equal the official files'.

    Tokens come in the order of generation. A family overrides the methods in which it differs.
    """

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.cls_embedding = ClassEmbedding(config)
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.output = PackableLinear(config.dim, config.vocab_size, bias=False)

    def constant_buffers(self) -> dict[str, Tensor]:
        """Return no buffers: the rotary table and the masks are not part of the official state dicts."""
        return {}

    def adapt_state(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Drop entries that are not weights: rotary table, caches."""
        return {name: tensor for name, tensor in tensors.items() if not _STRAY.fullmatch(name)}

    def step_input(self, tokens_Rl: Tensor, step: int) -> Tensor:
        """Embed the tokens of the previous pass as the input of pass `step` (>= 1); (R, l, C)."""
        x_RlC: Tensor = self.tok_embeddings(tokens_Rl)
        return x_RlC

    def sequence_input(self, labels_B: Tensor, tokens_BL: Tensor) -> Tensor:
        """Embed the inputs of all passes, (B, 1 + L, C)."""
        return torch.cat((self.cls_embedding(labels_B), self.tok_embeddings(tokens_BL)), dim=1)

    def forward(
        self,
        x_RlC: Tensor,
        rope_lP2: Tensor,
        kernels: KernelSet,
        *,
        cache: KVCache | None = None,
        mask_lT: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Logits (R, l, V) fp32 of each output head at every position.

        Attention sees the tokens in `cache` (None: only x) under a boolean `mask_lT` (True: may attend).
        """
        for layer, block in enumerate(self.layers):
            x_RlC = block(x_RlC, rope_lP2, kernels, layer=layer, cache=cache, mask_lT=mask_lT)
        return (self.output(self.norm(x_RlC)).float(),)
