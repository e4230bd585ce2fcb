"""The check before every test verdict and every time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from arvbench.errors import ContractError, UserError
from arvbench.kernels import KERNELS
from arvbench.kernels.adaln import reference
from arvbench.kernels.contract import KernelSpec, Limits, Tol, Workload, max_abs_err, verified_call

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


def first_is_wrong(x_RlC: Tensor, scale_R1C: Tensor, shift_R1C: Tensor, eps: float) -> Tensor:
    out = right(x_RlC, scale_R1C, shift_R1C, eps)
    out.view(-1)[0] += 1
    return out


def last_is_no_number(x_RlC: Tensor, scale_R1C: Tensor, shift_R1C: Tensor, eps: float) -> Tensor:
    out = right(x_RlC, scale_R1C, shift_R1C, eps)
    out.view(-1)[-1] = torch.nan
    return out


@pytest.mark.parametrize(("wrong", "largest"), [(first_is_wrong, 1), (last_is_no_number, torch.nan)])
def test_one_wrong_value_of_a_million_is_found_wherever_it_is(wrong, largest):
    spec = with_fast(wrong)
    shape = spec.workloads[WORKLOAD].shape | {"l": 4000}
    spec = replace(spec, workloads={"large": Workload(shape=shape)})
    ok, err = max_abs_err(spec, "large", dtype=torch.float32, device="cpu")
    assert not ok and err == pytest.approx(largest, rel=1e-4, nan_ok=True)


def test_a_result_of_another_dtype_breaks_the_contract():
    with pytest.raises(ContractError, match=r"returned dtype torch\.float64, the reference torch\.float32"):
        max_abs_err(with_fast(always_fp64), WORKLOAD, dtype=torch.float32, device="cpu")


def test_a_dtype_without_a_tolerance_is_refused():
    with pytest.raises(UserError, match=r"does not state a tolerance for torch\.float64"):
        max_abs_err(with_fast(right), WORKLOAD, dtype=torch.float64, device="cpu")


def test_an_unknown_workload_is_refused():
    with pytest.raises(UserError, match=r"no workload 'huge'; known: d16-first"):
        max_abs_err(with_fast(right), "huge", dtype=torch.float32, device="cpu")


def pick(x_BV: Tensor, cache_BT: Tensor, at: int) -> tuple[Tensor, Tensor]:
    """Return the largest value and its place; write it into the cache at `at`."""
    top_B, token_B = x_BV.max(dim=-1)
    cache_BT[:, at] = top_B
    return top_B, token_B


def pick_the_place_before(x_BV: Tensor, cache_BT: Tensor, at: int) -> tuple[Tensor, Tensor]:
    top_B, token_B = pick(x_BV, cache_BT, at)
    return top_B, token_B - (token_B > 0).long()


def pick_and_forget(x_BV: Tensor, cache_BT: Tensor, at: int) -> tuple[Tensor, Tensor]:
    return pick(x_BV, cache_BT.clone(), at)


def pick_and_smear(x_BV: Tensor, cache_BT: Tensor, at: int) -> tuple[Tensor, Tensor]:
    outputs = pick(x_BV, cache_BT, at)
    cache_BT[:, at + 1] = 0
    return outputs


def pick_and_spoil(x_BV: Tensor, cache_BT: Tensor, at: int) -> tuple[Tensor, Tensor]:
    outputs = pick(x_BV, cache_BT, at)
    x_BV[0, 0] = 0
    return outputs


def pick_one(x_BV: Tensor, cache_BT: Tensor, at: int) -> Tensor:
    return pick(x_BV, cache_BT, at)[0]


def pick_coarsely(x_BV: Tensor, cache_BT: Tensor, at: int) -> tuple[Tensor, Tensor]:
    top_B, token_B = pick(x_BV, cache_BT, at)
    return top_B + 1e-3, token_B


def pick_inputs(shape: Any, *, dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> dict[str, Any]:
    x = torch.randn(shape["B"], 9, generator=generator).to(device, dtype)
    return {"x_BV": x, "cache_BT": torch.full((shape["B"], 4), torch.nan, dtype=dtype), "at": 1}


PICK = KernelSpec(
    name="pick",
    reference=f"{__name__}:pick",
    fast=f"{__name__}:pick",
    make_inputs=pick_inputs,
    workloads={"small": Workload(shape={"B": 5})},
    tolerance={torch.float32: Tol(1e-6, 0)},
    flops=lambda shape: 9 * shape["B"],
    bytes_moved=lambda shape, itemsize: 10 * shape["B"] * itemsize,
    limits=Limits(registers=32, shared_bytes=0),
    mutates=("cache_BT",),
)


def picked(function: Any, **changes: Any) -> Any:
    spec = replace(PICK, fast=f"{__name__}:{function.__name__}", **changes)
    return max_abs_err(spec, "small", dtype=torch.float32, device="cpu")


def test_all_outputs_and_written_operands_are_compared():
    """The cache is NaN but for one column, and stays so in both."""
    assert picked(pick) == (True, 0.0)


@pytest.mark.parametrize("wrong", [pick_the_place_before, pick_and_forget, pick_and_smear, pick_coarsely])
def test_one_wrong_output_of_several_is_found(wrong):
    assert not picked(wrong).ok


def test_integers_are_equal_whatever_the_tolerance():
    assert not picked(pick_the_place_before, tolerance={torch.float32: Tol(10, 10)}).ok


def test_an_output_may_have_its_own_tolerance():
    loose = {torch.float32: Tol(1e-2, 0)}
    assert picked(pick_coarsely, output_tolerance={"0": loose}).ok
    assert not picked(pick_coarsely, output_tolerance={"cache_BT": loose}).ok


def test_an_operand_that_is_written_unnamed_breaks_the_contract():
    with pytest.raises(ContractError, match=r"pick \(triton\) wrote operand x_BV, which `mutates` does not name"):
        picked(pick_and_spoil)


def test_a_missing_output_breaks_the_contract():
    with pytest.raises(ContractError, match="has 2 outputs, the reference 3"):
        picked(pick_one)


def test_a_further_implementation_is_under_the_same_contract():
    spec = replace(PICK, others={"twin": f"{__name__}:pick", "coarse": f"{__name__}:pick_coarsely"})
    assert list(spec.implementations) == ["torch", "triton", "twin", "coarse"]
    verdicts = {
        name: max_abs_err(spec, "small", dtype=torch.float32, device="cpu", implementation=name).ok
        for name in spec.implementations
    }
    assert verdicts == {"torch": True, "triton": True, "twin": True, "coarse": False}
