"""Triton's interpreter costs less and computes the same."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from arvbench.kernels.interpreter import block_size, quicken_interpreter

BOTH = """
import os
os.environ["TRITON_INTERPRET"] = "1"
import torch, triton
from triton.runtime import interpreter
from arvbench.kernels import KERNELS
from arvbench.kernels.interpreter import block_size, quicken_interpreter

SMALL = {
    "adaln_modulate": "no-power-of-two", "block_sparse_attention_backward": "one-scale",
    "guided_sample": "llamagen-one-image", "next_scale_input": "demo-ragged", "rms_norm_gated": "ragged",
    "scale_attention": "no-norm", "ssd_scan": "one-token", "swiglu": "ragged", "wavefront_attention": "split",
}
patched = []
patch = interpreter._patch_builtin
interpreter._patch_builtin = lambda *arguments: patched.append(arguments) or patch(*arguments)

def results():
    found = []
    for name, workload in SMALL.items():
        spec = KERNELS[name]
        operands = spec.inputs(workload, dtype=torch.float32, device="cpu")
        result = spec.implementations["triton"](**operands)
        tensors = [result] if isinstance(result, torch.Tensor) else list(result or ())
        found += [*tensors, *(operands[name] for name in spec.mutates if operands[name] is not None)]
    return [tensor.contiguous().view(torch.uint8) for tensor in found]

plain, before = results(), len(patched)
assert quicken_interpreter() and quicken_interpreter()
patched.clear()
quick = results()
assert len(plain) == len(quick) >= len(SMALL)
assert all(map(torch.equal, plain, quick))
assert 0 < len(patched) < before / 2, (len(patched), before)
"""


def test_results_have_the_same_bits_with_fewer_exchanges(programs):
    pytest.importorskip("triton", reason="needs triton")
    done = programs.run("-c", BOTH)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("names", [(), ("_patch_lang",), ("_patch_lang", "_get_np_dtype")])
def test_an_interpreter_with_other_names_stays_as_it_is(monkeypatch, names):
    unknown = ModuleType("triton.runtime.interpreter")
    unknown.GridExecutor = type("GridExecutor", (), {"__call__": len})
    for name in names:
        setattr(unknown, name, len)
    before = dict(vars(unknown))
    monkeypatch.setitem(sys.modules, "triton.runtime.interpreter", unknown)
    assert not quicken_interpreter()
    assert vars(unknown) == before and unknown.GridExecutor.__call__ is len


def test_without_triton_nothing_is_done(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton.runtime.interpreter", None)
    assert not quicken_interpreter()


def test_few_blocks_stay_as_they_are_and_many_become_large(monkeypatch):
    assert block_size(32, 1000) == 32
    monkeypatch.setattr("arvbench.kernels.interpreter._enlarged", [True])
    assert [block_size(32, length) for length in (1, 128, 129, 256, 1000)] == [32, 32, 256, 256, 256]
    assert [block_size(64, length) for length in (256, 257)] == [64, 256] and block_size(512, 3000) == 512


LARGE = """
import torch
from arvbench.kernels import KERNELS, dispatch
from arvbench.kernels.block_sparse_attention.reference import Scales
dispatch.interpret_kernels("optimized", large_blocks=True)
import triton
from arvbench.kernels.scale_attention import triton as scale
from arvbench.kernels.ssd_scan import triton as scan
from arvbench.kernels.wavefront_attention import triton as wavefront

blocks = []
for kernel, size in (
    (scale._scale_attention_kernel, "BLOCK_N"),
    (wavefront._wavefront_attention_kernel, "BLOCK_N"),
    (scan._convolution_kernel, "T"),
    (scan._ssd_scan_kernel, "Q"),
):
    run = kernel.run
    kernel.run = lambda *args, run=run, size=size, **options: blocks.append(options[size]) or run(*args, **options)

def both(name, **operands):
    spec, results = KERNELS[name], []
    for implementation in ("torch", "triton"):
        own = {key: value.clone() if key in spec.mutates else value for key, value in operands.items()}
        results.append((spec.implementations[implementation](**own), *(own[key] for key in spec.mutates)))
    for expected, found in zip(*results):
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)

torch.manual_seed(0)
def cache(slots): return {"keys_RHTD": torch.randn(1, 2, slots, 16), "values_RHTD": torch.randn(1, 2, slots, 16)}
both("scale_attention", qkv_Rl3HD=torch.randn(1, 150, 3, 2, 16), log_scale_H=torch.zeros(2), **cache(430),
     filled_1=torch.tensor([270], dtype=torch.int32), softmax_scale=1.0)
angles = torch.rand(5, 8) * 6
rope = torch.stack([angles.cos(), angles.sin()], -1)
both("wavefront_attention", qkv_Rl3HD=torch.randn(1, 5, 3, 2, 16), rope_lP2=rope, **cache(300),
     filled_1=torch.tensor([290], dtype=torch.int32))
shape = {"R": 1, "l": 150, "H": 5, "P": 32, "N": 64, "K": 4, "f": 0, "S": 0}
both("ssd_scan", **KERNELS["ssd_scan"].make_inputs(
    shape, dtype=torch.float32, device=torch.device("cpu"), generator=torch.Generator().manual_seed(0)))
assert blocks == [256, 256, 256, 256]
q, k, v = (torch.randn(1, 2, 161, 16) for _ in range(3))
both("block_sparse_attention", q_RHLD=q, k_RHLD=k, v_RHLD=v, scales=Scales((0, 1, 5, 21, 161), causal=True),
     softmax_scale=0.25)
"""


def test_large_blocks_compute_what_the_references_do(programs):
    pytest.importorskip("triton", reason="needs triton")
    done = programs.run("-c", LARGE)
    assert done.returncode == 0, done.stderr
