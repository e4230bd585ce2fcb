from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from arvbench.adapters.next_scale.blocks import MAX_LOG_SCALE, SelfAttention

R, L, H, D = 3, 5, 2, 16


def attention() -> SelfAttention:
    torch.manual_seed(0)
    module = SelfAttention(H * D, H, l2_norm=True)
    torch.nn.init.normal_(module.q_bias)
    # One scale below the limit, one above.
    module.scale_mul_1H11.data = torch.tensor([1.0, MAX_LOG_SCALE + 2]).view(1, H, 1, 1)
    return module


def expected(module: SelfAttention, x: torch.Tensor) -> torch.Tensor:
    bias = torch.cat((module.q_bias, module.zero_k_bias, module.v_bias))
    q, k, v = F.linear(x, module.mat_qkv.weight, bias).view(R, L, 3, H, D).permute(2, 0, 3, 1, 4)
    q = F.normalize(q, dim=-1) * module.scale_mul_1H11.clamp_max(MAX_LOG_SCALE).exp()
    out = F.scaled_dot_product_attention(q, F.normalize(k, dim=-1), v, scale=1.0)
    return module.proj(out.transpose(1, 2).reshape(R, L, H * D))


@pytest.mark.parametrize("gradients", [False, True])
def test_queries_and_keys_of_unit_length(gradients):
    module, x = attention(), torch.randn(R, L, H * D, generator=torch.Generator().manual_seed(1))
    given = x.clone()
    with torch.set_grad_enabled(gradients):
        torch.testing.assert_close(module(x), expected(module, x), rtol=0, atol=1e-6)
    assert torch.equal(x, given)


def test_gradients_are_those_of_the_definition():
    module, x = attention(), torch.randn(R, L, H * D, generator=torch.Generator().manual_seed(1))
    gradients = []
    for compute in (module, lambda x: expected(module, x)):
        module.zero_grad()
        leaf = x.clone().requires_grad_()
        compute(leaf).square().sum().backward()
        gradients.append([leaf.grad, *(p.grad.clone() for p in module.parameters())])
    torch.testing.assert_close(*gradients)


def test_a_vector_of_zeros_stays_one():
    module = attention()
    module.mat_qkv.weight.data.zero_()
    module.q_bias.data.zero_()
    module.v_bias.data.fill_(1.0)
    with torch.no_grad():
        assert torch.equal(module(torch.zeros(R, L, H * D)), module.proj(torch.ones(R, L, H * D)))


@pytest.mark.parametrize("gradients", [False, True])
def test_the_learnt_scale_is_in_the_queries_so_that_caches_hold_keys_of_unit_length(gradients):
    module, qkv = attention(), torch.randn(R, L, 3, H, D, generator=torch.Generator().manual_seed(1))
    with torch.set_grad_enabled(gradients):
        q, k, v = module._normalised(qkv.clone()).detach().unbind(2)
    scales = torch.tensor([1.0, MAX_LOG_SCALE]).exp()
    torch.testing.assert_close(q.norm(dim=-1), scales.expand(R, L, H))
    torch.testing.assert_close(k.norm(dim=-1), torch.ones(R, L, H))
    assert torch.equal(v, qkv[:, :, 2])
