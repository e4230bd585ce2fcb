"""Quantities that are known before a call runs: from the schedule, the parameters and the call on the meta device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING

from arvbench.adapters.work import Work, total_work
from arvbench.errors import UserError
from arvbench.harness.suites.suite import sampling_settings
from arvbench.results.claims import Term
from arvbench.results.schema import CaseConfig

if TYPE_CHECKING:
    from arvbench.adapters.sampler import Sampler
    from arvbench.adapters.schedule import Schedule
    from arvbench.harness.measure.footprint import Footprint

_OF_SCHEDULE: Mapping[str, Callable[[Schedule], float]] = {
    "steps": len,
    "scales": lambda schedule: sum(step.kind != "mask" for step in schedule),
    "tokens": lambda schedule: sum(step.new_tokens for step in schedule if step.kind != "mask"),
    "flops": lambda schedule: schedule.flops,
    "decode_flops": lambda schedule: schedule.decode_flops,
    "call_flops": lambda schedule: schedule.flops + schedule.decode_flops,
    "cache_bytes": lambda schedule: schedule.peak_cache_bytes,
}
_OF_WORK: Mapping[str, Callable[[Work], float]] = {
    "tokens_forwarded": lambda work: work.tokens_forwarded,
    "layer_tokens": lambda work: work.layer_tokens,
    "attention_pairs": lambda work: work.attention_pairs,
}
_OF_CALL: Mapping[str, Callable[[Footprint], float]] = {
    "state_bytes": lambda found: max(found.tokens_peak_bytes, found.decode_peak_bytes),
    "memory_bytes": lambda found: found.total_bytes,
}


def planned_quantity(term: Term, quantity: str) -> float:
    """Return a quantity of the plan of a case. Raises UserError for a case that the model refuses."""
    return _planned(term.model_dump_json(), quantity)


@cache
def _planned(written: str, quantity: str) -> float:
    term = Term.model_validate_json(written)
    if quantity in _OF_CALL:
        from arvbench.harness.measure.footprint import predict

        return float(_OF_CALL[quantity](predict(case_of(term))))
    sampler = _sampler(term)
    settings = sampling_settings(sampler.spec, term.settings)
    sampler.check_settings(sampler.spec, settings)
    parts = sampler.modules()
    if quantity == "image_px":
        return float(sampler.image_shape(settings)[0])
    if quantity in ("parameters", "sampler_parameters"):
        chosen = ["transformer"] if quantity == "parameters" else [part for part in parts if part != "tokenizer"]
        return float(sum(tensor.numel() for part in chosen for tensor in parts[part].parameters()))
    schedule = sampler.schedule(settings, batch=term.batch, cache=term.cache)
    if quantity == "kept_bytes":
        weights = sum(tensor.nbytes for module in parts.values() for tensor in module.parameters())
        return float(weights + schedule.peak_cache_bytes)
    if quantity in _OF_SCHEDULE:
        return float(_OF_SCHEDULE[quantity](schedule))
    steps = sampler.work(sampler.cache_policy(term.cache, settings), settings, batch=term.batch)
    if not steps:
        raise UserError(f"{term}: its family does not state {quantity}")
    return float(_OF_WORK[quantity](total_work(steps)))


def case_of(term: Term) -> CaseConfig:
    """Return the case of a term, with random weights on the CPU."""
    return CaseConfig(weights="random:0", **term.model_dump())


def _sampler(term: Term) -> Sampler:
    """Build the sampler of a term on the meta device, which needs no memory."""
    import torch

    from arvbench.adapters.loading import meta_modules
    from arvbench.adapters.methods.request import spec_of
    from arvbench.adapters.sampler import WeightsInfo

    spec = spec_of(term.model, term.method)
    sampler: Sampler = spec.sampler(
        spec,
        meta_modules(spec),
        weights=WeightsInfo(source="none", random=True),
        backend="reference",
        device=torch.device("meta"),
        dtype=getattr(torch, term.dtype),
    )
    return sampler
