"""Names and counts of the attention kernels that ran."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from arvbench.adapters import PerImageNoise, load_sampler
from arvbench.harness.machine.attention import MATH, NO_SDPA, AttentionRecorder

FLASH = "flash_attention_for_cpu"


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
@pytest.mark.parametrize(("backend", "kernel"), [(SDPBackend.MATH, MATH), (SDPBackend.FLASH_ATTENTION, FLASH)])
def test_the_kernel_that_ran_is_named_and_counted(mode, backend, kernel):
    q = torch.randn(1, 2, 8, 16)
    with mode(), sdpa_kernel(backend):
        expected = F.scaled_dot_product_attention(q, q, q)
        with AttentionRecorder() as recorder:
            got = F.scaled_dot_product_attention(q, q, q)
            F.scaled_dot_product_attention(q, q, q)
    assert recorder.kernels == {kernel: 2}
    assert recorder.description == kernel
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_attention_written_by_hand_is_not_an_sdpa_call():
    q = torch.randn(1, 8, 16)
    with AttentionRecorder() as recorder:
        (q @ q.transpose(1, 2)).softmax(-1) @ q
    assert recorder.description == NO_SDPA


def test_nothing_is_recorded_outside():
    q = torch.randn(1, 2, 8, 16)
    with AttentionRecorder() as recorder:
        pass
    F.scaled_dot_product_attention(q, q, q)
    assert recorder.kernels == {}


def test_every_layer_and_step_of_a_model_is_seen():
    sampler = load_sampler("demo/var", weights="random:0")
    layers, steps = sampler.spec.transformer.depth, len(sampler.spec.transformer.patch_nums)
    with AttentionRecorder() as recorder:
        sampler.sample([1], sampler.spec.settings, noise=PerImageNoise(0, [0]))
    assert recorder.kernels[FLASH] == layers * steps
