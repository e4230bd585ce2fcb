from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from arvbench.adapters.mvar.mamba2 import Mamba2, MambaConfig, scan_recurrent
from arvbench.errors import UserError
from arvbench.kernels.ssd_scan.reference import CHUNK, ScanInputs, decay_between, scan_chunked

ROWS, HEADS, CHANNELS, STATES = 2, 3, 4, 5


def scan_inputs(tokens, *, dtype=torch.float32, seed=0):
    """Random (x, dt, A, B, C, state), with heads that forget at very different rates."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=dtype)

    return [
        normal(ROWS, tokens, HEADS, CHANNELS),
        F.softplus(normal(ROWS, tokens, HEADS) - 1),
        torch.tensor([-0.01, -1.0, -16.0], dtype=dtype),
        normal(ROWS, tokens, STATES),
        normal(ROWS, tokens, STATES),
        normal(ROWS, HEADS, CHANNELS, STATES),
    ]


def chunked(x, dt, A, B, C, state, **options):
    return scan_chunked(ScanInputs(x, dt, A, B, C), state, **options)


def recurrent(x, dt, A, B, C, state):
    return scan_recurrent(ScanInputs(x, dt, A, B, C), state)


def mixer(*, seed=0, dtype=torch.float32, **sizes):
    """A mixer with random weights everywhere, in which every parameter matters."""
    torch.manual_seed(seed)
    model = Mamba2(MambaConfig(**{"d_model": 16, "d_state": 8, "headdim": 8, **sizes})).to(dtype)
    with torch.no_grad():
        for parameter in (model.dt_bias, model.A_log, model.D, model.norm.weight):
            parameter.add_(torch.rand_like(parameter))
    return model


def test_the_recurrence_is_the_definition_for_one_head_by_hand():
    x, dt, A = torch.tensor([[[[2.0]], [[3.0]]]]), torch.tensor([[[0.5], [1.0]]]), torch.tensor([-1.0])
    B, C = torch.tensor([[[1.0, 0.0], [1.0, 2.0]]]), torch.tensor([[[1.0, 1.0], [0.0, 1.0]]])
    y, state = recurrent(x, dt, A, B, C, torch.tensor([[[[4.0, 8.0]]]]))
    first = torch.tensor([4.0, 8.0]) * torch.tensor(-0.5).exp() + 0.5 * 2 * torch.tensor([1.0, 0.0])
    second = first * torch.tensor(-1.0).exp() + 3 * torch.tensor([1.0, 2.0])
    torch.testing.assert_close(y.flatten(), torch.stack([first.sum(), second[1]]))
    torch.testing.assert_close(state.flatten(), second)


@pytest.mark.parametrize("chunk", [1, 4, 7, CHUNK])
@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 7, 8, 9, 28, 33, 64, 70])
def test_chunks_give_the_numbers_of_the_recurrence(tokens, chunk):
    inputs = scan_inputs(tokens)
    y, state = chunked(*inputs, chunk=chunk)
    expected, expected_state = recurrent(*inputs)
    torch.testing.assert_close(y, expected, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(state, expected_state, atol=2e-5, rtol=1e-5)


def test_the_state_before_the_first_token_is_read_and_forgotten_at_each_heads_rate():
    x, dt, A, B, C, state = scan_inputs(6)
    with_state, after = chunked(x, dt, A, B, C, state, chunk=4)
    without, after_zero = chunked(x, dt, A, B, C, torch.zeros_like(state), chunk=4)
    kept = (dt * A).cumsum(1).exp()
    read = torch.einsum("rlh,rhpn,rln->rlhp", kept, state, C)
    torch.testing.assert_close(with_state - without, read, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(after - after_zero, kept[:, -1, :, None, None] * state, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("cut", [1, 3, 4, 31, 32, 33, 39])
def test_a_sequence_cut_anywhere_equals_one_pass(cut):
    inputs = scan_inputs(40)
    y, state = chunked(*inputs)
    x, dt, A, B, C, before = inputs
    first, middle = chunked(x[:, :cut], dt[:, :cut], A, B[:, :cut], C[:, :cut], before)
    second, after = chunked(x[:, cut:], dt[:, cut:], A, B[:, cut:], C[:, cut:], middle)
    torch.testing.assert_close(torch.cat((first, second), 1), y, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(after, state, atol=2e-5, rtol=1e-5)


def test_gradients_of_all_inputs_are_right():
    inputs = [t.requires_grad_() for t in scan_inputs(7, dtype=torch.float64)]
    assert torch.autograd.gradcheck(partial(chunked, chunk=3), inputs)


@pytest.mark.parametrize("size", [1e3, 1e6])
def test_strong_decay_neither_overflows_nor_turns_into_nan(size):
    x, dt, A, B, C, state = (t.requires_grad_() for t in scan_inputs(40))
    y, after = chunked(x, dt * size, A, B, C, state)
    expected, expected_state = recurrent(x, dt * size, A, B, C, state)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4 * size)
    torch.testing.assert_close(after, expected_state, rtol=1e-4, atol=1e-4 * size)
    (y.sum() + after.sum()).backward()
    assert all(t.grad.isfinite().all() for t in (x, dt, A, B, C, state))


def test_weak_decay_behind_strong_decay_is_not_lost():
    log_decay = torch.tensor([-1e6, -1e-3, -1e-3, -2e-3])
    from_start, *kept = decay_between(log_decay)
    assert torch.equal(from_start, torch.zeros(4))
    # A difference of running sums near a million would know nothing below 0.06.
    torch.testing.assert_close(kept[0], torch.tensor([0.0, -1e-3, -2e-3, -4e-3]).exp(), atol=1e-7, rtol=0)
    torch.testing.assert_close(kept[2], torch.tensor([0.0, 0.0, 0.0, -2e-3]).exp(), atol=1e-7, rtol=0)


@pytest.mark.parametrize("tokens", [1, 2, 5, 33])
def test_the_mixer_equals_its_token_by_token_form(tokens):
    model, x = mixer(), torch.randn(ROWS, tokens, 16)
    with torch.no_grad():
        chunks, state = model(x)
        tokenwise, expected = model(x, scan=scan_recurrent)
    torch.testing.assert_close(chunks, tokenwise, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(state.ssm_RHPN, expected.ssm_RHPN, atol=1e-5, rtol=1e-5)
    assert torch.equal(state.conv_RMK, expected.conv_RMK)


def test_the_mixer_is_the_definition_written_out():
    model, x = mixer(), torch.randn(1, 6, 16)
    z, raw, dt = (x[0] @ model.in_proj.weight.T).split([32, 48, 4], dim=1)
    weight, outputs, state = model.conv1d.weight[:, 0], [], torch.zeros(4, 8, 8)
    for t in range(6):
        # The newest tap is the token's own column.
        taps = [raw[t - age] * weight[:, 3 - age] for age in range(4) if t >= age]
        x_t, B, C = F.silu(sum(taps) + model.conv1d.bias).split([32, 8, 8])
        dt_t, x_t = F.softplus(dt[t] + model.dt_bias), x_t.view(4, 8)
        decay = (-model.A_log.exp() * dt_t).exp()
        state = decay.view(4, 1, 1) * state + torch.einsum("h,hp,n->hpn", dt_t, x_t, B)
        y = (state @ C + model.D.view(4, 1) * x_t).flatten() * F.silu(z[t])
        outputs.append(model.out_proj.weight @ (y * (y.square().mean() + 1e-5).rsqrt() * model.norm.weight))
    out, last = model(x)
    torch.testing.assert_close(out[0], torch.stack(outputs), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(last.ssm_RHPN[0], state, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cuts", [[1] * 12, [1, 4, 7], [2, 10], [11, 1], [5, 1, 1, 5]])
def test_carrying_the_state_equals_one_pass_over_everything(cuts):
    model, x = mixer(), torch.randn(ROWS, 12, 16)
    with torch.no_grad():
        expected, last = model(x)
        state, parts = None, []
        for part in x.split(cuts, dim=1):
            out, state = model(part, state)
            parts.append(out)
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(state.ssm_RHPN, last.ssm_RHPN, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(state.conv_RMK, last.conv_RMK, atol=1e-6, rtol=1e-5)


def test_the_convolution_state_is_the_last_raw_columns_with_zeros_before_the_first_token():
    model, x = mixer(), torch.randn(ROWS, 6, 16)
    raw = model.in_proj(x)[..., 32 : 32 + 48].transpose(1, 2)
    assert torch.equal(model(x)[1].conv_RMK, raw[:, :, -4:])
    early = model(x[:, :2])[1].conv_RMK
    assert torch.equal(early[:, :, :2], torch.zeros(ROWS, 48, 2))
    torch.testing.assert_close(early[:, :, 2:], raw[:, :, :2])


def test_the_mixer_is_causal():
    model, x = mixer(), torch.randn(ROWS, 10, 16)
    changed = x.clone()
    changed[:, 6] += 1
    with torch.no_grad():
        difference = (model(x)[0] - model(changed)[0]).abs().amax(dim=(0, 2))
    assert torch.equal(difference[:6], torch.zeros(6))
    assert (difference[6:] > 1e-4).all()


def test_gradients_of_all_parameters_are_right():
    model = mixer(dtype=torch.float64, d_model=4, d_state=3, headdim=4)
    x = torch.randn(1, 5, 4, dtype=torch.float64)
    names = [name for name, _ in model.named_parameters()]

    def outputs(*values):
        out, state = torch.func.functional_call(model, dict(zip(names, values, strict=True)), (x,))
        return out, state.ssm_RHPN, state.conv_RMK

    assert torch.autograd.gradcheck(outputs, tuple(p.detach().clone().requires_grad_() for p in model.parameters()))


def test_every_parameter_reaches_the_output():
    model, x = mixer(), torch.randn(ROWS, 9, 16)
    model(x)[0].square().sum().backward()
    assert all(parameter.grad.abs().max() > 1e-6 for parameter in model.parameters())


def test_the_gate_comes_before_the_norm():
    norm = mixer().norm
    y, z = torch.randn(ROWS, 3, 32), torch.randn(ROWS, 3, 32)
    gated = y * F.silu(z)
    expected = gated * (gated.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * norm.weight
    torch.testing.assert_close(norm(y, z), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_half_precision_the_state_stays_in_fp32(dtype):
    model, x = mixer(), torch.randn(ROWS, 40, 16)
    with torch.no_grad():
        expected = model(x)[0]
        out, state = model.to(dtype)(x.to(dtype))
    assert (out.dtype, state.conv_RMK.dtype, state.ssm_RHPN.dtype) == (dtype, dtype, torch.float32)
    assert (out.float() - expected).abs().max() < 0.1 * expected.abs().max()


@pytest.mark.parametrize("tokens", [1, 9, CHUNK, CHUNK + 1, 100])
def test_planned_flops_and_parameters_equal_the_counted_ones(tokens):
    model = mixer()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.randn(1, tokens, 16))
    assert model.config.flops(tokens) == counter.get_total_flops()
    assert model.config.parameters == sum(p.numel() for p in model.parameters())


def test_the_cost_of_new_tokens_is_linear_in_them():
    config = MambaConfig(d_model=768)
    assert config.flops(8 * CHUNK) == 8 * config.flops(CHUNK)


def test_initial_values_give_the_official_range_of_steps_and_decays():
    model = mixer(d_model=64)
    values = model.initial_values()
    torch.testing.assert_close(F.softplus(values["dt_bias"])[[0, -1]], torch.tensor([1e-3, 0.1]))
    torch.testing.assert_close(values["A_log"].exp()[[0, -1]], torch.tensor([1.0, 16.0]))
    assert values.keys() <= dict(model.named_parameters()).keys()
    fresh = Mamba2(model.config)
    assert all(torch.equal(fresh.get_parameter(name), value) for name, value in values.items())


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(UserError, match=r"width 80 has 160 inner channels.*multiple of 32"):
        MambaConfig(d_model=80)
