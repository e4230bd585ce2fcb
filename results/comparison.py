"""Keys of comparisons: which records measured the same thing, and on which machines their numbers compare.

The fingerprint of a record says what need not be measured again, and so holds the source and the libraries. A
comparison asks what a change of these did: its keys hold neither.
"""

from __future__ import annotations

import json

from arvbench.results.schema import Environment, Incorrect, Measured, Record

_GIB = 2**30


def comparison_key(record: Record, **alike: object) -> str:
    """Return what was measured, as one line of JSON that is equal for comparable records; "" for a failed case.

    It holds the case as asked (model, method, weights, data type, backend, kernels, cache, batch, threads, kind of
    device) and the complete sampling settings and the size of the image, which a failed case never got to know. It
    holds neither
    source, libraries and machine (`hardware_class`) nor what costs time but changes no number: launches, repeats,
    warm-up, limits, quality. `alike` are values that stand for all of a field, so that it tells nothing apart.
    """
    if not isinstance(record.outcome, Measured | Incorrect):
        return ""
    case, setup = record.case, record.outcome.setup
    return json.dumps(
        {
            "model": case.model,
            "method": case.method,
            "weights": case.weights,
            "settings": setup.settings,
            "dtype": case.dtype,
            "backend": case.backend,
            "kernels": case.kernels,
            "cache": case.cache,
            "batch": case.batch,
            "threads": case.threads,
            "device": case.device.partition(":")[0],
            "image_px": [setup.image_px, setup.image_width_px or setup.image_px],
        }
        | alike,
        sort_keys=True,
    )


def hardware_class(environment: Environment) -> str:
    """Return what stays of a machine when it is started again.

    A GPU: name (of a MIG slice, with its profile), memory and driver branch. A CPU: model and usable cores. Clocks,
    free memory, temperature and the like never count.
    """
    gpu = environment.gpu
    if gpu is None:
        return f"{_words(environment.cpu)}, {environment.cores} cores"
    branch = f"driver {gpu.driver.partition('.')[0]}" if gpu.driver else "driver unknown"
    return f"{_words(gpu.name)}, {round(gpu.memory_bytes / _GIB)} GiB, {branch}"


def _words(name: str) -> str:
    """Return a name with single spaces: vendors pad them."""
    return " ".join(name.split())
