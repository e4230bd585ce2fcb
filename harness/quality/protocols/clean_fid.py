"""Protocols `clean-fid`, `clean-fid-legacy-tensorflow`, `clean-fid-legacy-pytorch`: FID and KID by that library.

The distances are the library's own functions (`frechet_distance` with scipy's `sqrtm`, which takes about a minute at
2048 dimensions; `kernel_distance` on fp32 features). The moments are ours, in float64 and streamed, which allows
references without images; the library keeps the mean of fp32 features in fp32, which moves its FID by 1e-7 of its value
at three images and by 1e-5 at 50,000. Its KID draws subsets from NumPy's global generator, which is seeded here and
restored afterwards.

On equal images, legacy_tensorflow agrees with `adm-v1` and `torch-fidelity` to about 1e-3; the other two modes resize
differently and differ by 0.01 to 0.1, and more at low FID. The library has no statistics of ImageNet.

fid   Frechet distance of two Gaussians; 0 is best; biased upwards for few images
kid   squared maximum mean discrepancy, cubic kernel; unbiased, so it can be slightly negative

Shapes   N samples, M reference images, D features
Source   Parmar et al., arXiv:2104.11222; clean-fid 0.1.35
"""

from __future__ import annotations

import contextlib
import inspect
import io
import threading
import warnings
from collections.abc import Iterator
from importlib.metadata import version

import numpy as np
from torch import Tensor

from arvbench.errors import HostError, UserError
from arvbench.harness.quality.metrics.moments import Moments
from arvbench.harness.quality.protocols.numbers import few_images, spread, spread_detail
from arvbench.harness.quality.protocols.protocol import (
    EvaluationProtocol,
    Metric,
    MetricInputs,
    MetricValue,
    with_version,
)

LAYER = "2048"
KID_SUBSETS, KID_SUBSET_SIZE, KID_SEED = 100, 1000, 0
"""The library's defaults, and our seed for its random subsets."""
_global_state = threading.Lock()
"""Guards state of the whole process that the library uses: NumPy's generator, standard output, warning filters."""


def library() -> str:
    return with_version("clean-fid")


def _unknown_scipy() -> HostError:
    return HostError(
        f"{library()} calls scipy's sqrtm(disp=), which scipy {version('scipy')} no longer has; install 'scipy<1.18', "
        "or evaluate with adm-v1 or torch-fidelity (clean-fid's kid still works)"
    )


def frechet_distance(samples: Moments, reference: Moments) -> tuple[float, str]:
    """Return the library's distance and its printed text (usually empty).

    Raises HostError under a scipy that the library does not support, and UserError when its root is not real.
    """
    from cleanfid.fid import frechet_distance as distance

    arrays = [m.numpy() for m in (samples.mean_D, samples.cov_DD, reference.mean_D, reference.cov_DD)]
    try:
        with _contained() as printed:
            value = distance(*arrays)
    except TypeError as error:
        if "disp" not in str(error):
            raise
        raise _unknown_scipy() from error
    except ValueError as error:
        if "Imaginary component" not in str(error):
            raise
        raise UserError(
            f"{library()} found no real root of the product of covariances ({error}): take more images, or evaluate "
            "with adm-v1, whose root is always real"
        ) from error
    return float(value), " ".join(printed.getvalue().split())


def kernel_distance(samples_ND: Tensor, reference_MD: Tensor, seed: int) -> float:
    """Return the library's KID of fp32 features (N, D) and (M, D); NumPy's global generator is seeded meanwhile."""
    from cleanfid.fid import kernel_distance as distance

    with _contained():
        state = np.random.get_state()
        np.random.seed(seed)
        try:
            return float(
                distance(
                    samples_ND.numpy(), reference_MD.numpy(), num_subsets=KID_SUBSETS, max_subset_size=KID_SUBSET_SIZE
                )
            )
        finally:
            np.random.set_state(state)


@contextlib.contextmanager
def _contained() -> Iterator[io.StringIO]:
    """Hide output and warnings of the library, one thread at a time; yields the output."""
    with _global_state, contextlib.redirect_stdout(io.StringIO()) as printed, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield printed


def fid(inputs: MetricInputs, layer: str) -> MetricValue:
    """FID by the library; the interval is ours."""
    samples, reference = inputs.samples.moments(layer), inputs.require_reference().moments(layer)
    value, printed = frechet_distance(samples, reference)
    sampling = inputs.once(spread, layer)
    few = few_images(len(samples.mean_D), samples.count, reference.count)
    return MetricValue(
        value=value,
        library=library(),
        interval=sampling.interval if sampling else None,
        parameters={"moments": "float64, N - 1", "root": "sqrtm of the product"},
        detail=spread_detail(inputs, sampling),
        notes=(*few, *([printed] if printed else [])),
    )


def kid(inputs: MetricInputs, layer: str) -> MetricValue:
    """KID by the library, with a stated seed."""
    samples_ND, reference_MD = inputs.features(layer)
    return MetricValue(
        value=kernel_distance(samples_ND, reference_MD, KID_SEED),
        library=library(),
        parameters={
            "subsets": KID_SUBSETS,
            "subset_size": min(len(samples_ND), len(reference_MD), KID_SUBSET_SIZE),
            "subset_seed": KID_SEED,
            "kernel": "(x.y / D + 1) ** 3",
        },
    )


def check_scipy() -> None:
    """Raise HostError under a scipy that the library does not support."""
    import scipy.linalg

    if "disp" not in inspect.signature(scipy.linalg.sqrtm).parameters:
        raise _unknown_scipy()


METRICS = (
    Metric("fid", LAYER, reads="moments", fewest=2, compute=fid, check=check_scipy),
    Metric("kid", LAYER, reads="features", fewest=2, compute=kid),
)
# Modes of the library: antialiased bicubic resize; TensorFlow 1's resize, as the original FID; as pytorch-fid.
CLEAN = EvaluationProtocol(name="clean-fid", extractor="clean-fid", metrics=METRICS)
LEGACY_TENSORFLOW = EvaluationProtocol(
    name="clean-fid-legacy-tensorflow", extractor="clean-fid-legacy-tensorflow", metrics=METRICS
)
LEGACY_PYTORCH = EvaluationProtocol(
    name="clean-fid-legacy-pytorch", extractor="clean-fid-legacy-pytorch", metrics=METRICS
)
