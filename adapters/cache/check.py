"""Check of a request for a cache policy against what a family supports."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from arvbench.adapters.cache import CACHE_POLICIES
from arvbench.adapters.cache import calibration as files
from arvbench.adapters.cache.policy import Memory, TokenOrder
from arvbench.adapters.cache.request import read_request
from arvbench.adapters.model_files import WeightsInfo
from arvbench.errors import UnknownName, UserError


def check_policy(
    model: str,
    policy: str,
    *,
    exact: Sequence[str],
    memory: Collection[Memory],
    order: Callable[[], TokenOrder | None],
) -> None:
    """Raise UnknownName or UserError for a policy that `model` does not support.

    `exact` names its exact policies, and `memory` the kinds that it has. `order` is called for a policy that it has.
    """
    name, options = read_request(policy)
    if name not in CACHE_POLICIES:
        raise UnknownName("cache policy", name, CACHE_POLICIES)
    kind = CACHE_POLICIES[name]
    if name not in exact and not (kind.lossy and kind.memory in memory):
        runs_on = f"; it runs on: {getattr(kind, 'families', '')}" if kind.lossy else ""
        raise UserError(f"{model} has no cache policy {name!r}; it has: {', '.join(exact)}{runs_on}")
    try:
        kind.check(order(), options)
        if "calibration" in options:
            files.check_model(options["calibration"], model)
    except UserError as error:
        raise UserError(f"{model}: {error}") from error


def check_weights(model: str, options: Mapping[str, str], weights: WeightsInfo) -> None:
    """Raise UserError for options with a calibration file of other weights than those of `model`."""
    if "calibration" in options:
        files.check_weights(options["calibration"], model, files.weights_identity(weights))
