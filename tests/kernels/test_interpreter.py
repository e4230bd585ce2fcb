"""Triton's interpreter costs less and computes the same."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from arvbench.kernels.interpreter import quicken_interpreter

BOTH = """
import os
os.environ["TRITON_INTERPRET"] = "1"
import torch, triton
from triton.runtime import interpreter
from arvbench.kernels import KERNELS
from arvbench.kernels.interpreter import quicken_interpreter

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
