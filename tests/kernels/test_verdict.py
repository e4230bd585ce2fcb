"""The check before every test verdict and every time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from arvbench.errors import ContractError, UserError
from arvbench.kernels import KERNELS
from arvbench.kernels.adaln import reference
from arvbench.kernels.contract import max_abs_err, verified_call

WORKLOAD = "no-power-of-two"


def right(x_RlC: Tensor, scale_R1C: Tensor, shift_R1C: Tensor, eps: float) -> Tensor:
    return reference.adaln_modulate(x_RlC, scale_R1C, shift_R1C, eps)


def skips_the_last_channel(x_RlC: Tensor, scale_R1C: Tensor, shift_R1C: Tensor, eps: float) -> Tensor:
    out = torch.full_like(x_RlC, torch.nan)
    out[..., :-1] = right(x_RlC, scale_R1C, shift_R1C, eps)[..., :-1]
    return out


def ten_times_eps(x_RlC: Tensor, scale_R1C: Tensor, shift_R1C: Tensor, eps: float) -> Tensor:
    return right(x_RlC, scale_R1C, shift_R1C, 10 * eps)


def one_pass_variance(x_RlC: Tensor, scale_R1C: Tensor, shift_R1C: Tensor, eps: float) -> Tensor:
    x = x_RlC.float()
    mean = x.mean(-1, keepdim=True)
    variance = (x * x).mean(-1, keepdim=True) - mean * mean
    return ((x - mean) * (variance + eps).rsqrt() * (1 + scale_R1C) + shift_R1C).to(x_RlC.dtype)


def unbiased_variance(x_RlC: Tensor, scale_R1C: Tensor, shift_R1C: Tensor, eps: float) -> Tensor:
    variance, mean = torch.var_mean(x_RlC, -1, keepdim=True)
    return (x_RlC - mean) * (variance + eps).rsqrt() * (1 + scale_R1C) + shift_R1C


def always_fp64(x_RlC: Tensor, scale_R1C: Tensor, shift_R1C: Tensor, eps: float) -> Tensor:
    return right(x_RlC, scale_R1C, shift_R1C, eps).double()


def with_fast(function):
    return replace(KERNELS["adaln_modulate"], fast=f"{__name__}:{function.__name__}")


def test_a_right_kernel_agrees_and_gets_its_call():
    ok, err = max_abs_err(with_fast(right), WORKLOAD, dtype=torch.float32, device="cpu")
    assert ok
    assert 0 < err < 1e-4
    call = verified_call(with_fast(right), WORKLOAD, dtype=torch.float32, device="cpu", implementation="triton")
    assert call().shape == (3, 5, 96)


@pytest.mark.parametrize("wrong", [skips_the_last_channel, ten_times_eps, one_pass_variance, unbiased_variance])
def test_a_wrong_kernel_is_found_and_never_timed(wrong):
    spec = with_fast(wrong)
    assert not max_abs_err(spec, WORKLOAD, dtype=torch.float32, device="cpu").ok
    with pytest.raises(
        ContractError, match=r"adaln_modulate \(triton\) is wrong on workload 'no-power-of-two'.*not timed"
    ):
        verified_call(spec, WORKLOAD, dtype=torch.float32, device="cpu", implementation="triton")


def test_a_result_of_another_dtype_breaks_the_contract():
    with pytest.raises(ContractError, match=r"returned dtype torch\.float64, the reference torch\.float32"):
        max_abs_err(with_fast(always_fp64), WORKLOAD, dtype=torch.float32, device="cpu")


def test_a_dtype_without_a_tolerance_is_refused():
    with pytest.raises(UserError, match=r"does not state a tolerance for torch\.float64"):
        max_abs_err(with_fast(right), WORKLOAD, dtype=torch.float64, device="cpu")


def test_an_unknown_workload_is_refused():
    with pytest.raises(UserError, match=r"no workload 'huge'; known: d16-first"):
        max_abs_err(with_fast(right), "huge", dtype=torch.float32, device="cpu")
