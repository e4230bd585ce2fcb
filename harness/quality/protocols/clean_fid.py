"""Protocols `clean-fid`, `clean-fid-legacy-tensorflow`, `clean-fid-legacy-pytorch`: FID and KID by that library.

The distances are the library's own functions (`frechet_distance` with scipy's `sqrtm`, which takes a minute or so at
2048 dimensions; `kernel_distance` on fp32 features). The moments are ours, in float64 and streamed, so that statistics
serve as a reference; the library keeps the mean of fp32 features in fp32, which moves its FID by 1e-7 of its value at
three images and by 1e-5 at 50,000. Its KID draws subsets from NumPy's global generator, which is seeded here and put
back.

The same images under the three modes, and under `adm-v1` and `torch-fidelity`: legacy_tensorflow agrees with those two
to about 1e-3; the other two resize differently and differ by 0.01 to 0.1 and more at low FID. No statistics of ImageNet
come with the library.

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
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import ClassVar

import numpy as np
from torch import Tensor

from arvbench.errors import HostError, UserError
from arvbench.harness.quality.metrics.moments import Moments
from arvbench.harness.quality.protocols.numbers import few_images, frechet_interval, reference_of
from arvbench.harness.quality.protocols.protocol import EvaluationProtocol, MetricInputs, MetricValue, Options, Reads

LAYER = "2048"
KID_SUBSETS, KID_SUBSET_SIZE, KID_SEED = 100, 1000, 0
"""The library's defaults, and our seed for what it leaves to chance."""
_global_state = threading.Lock()
"""For what the library takes from the whole process: NumPy's generator, standard output, warning filters."""


class _CleanFid(EvaluationProtocol):
    """What the three modes share; they differ in the extractor."""

    metrics: ClassVar[Mapping[str, int]] = {"fid": 2, "kid": 2}
    reference_metrics: ClassVar[frozenset[str]] = frozenset({"fid", "kid"})

    def check(self, metrics: Sequence[str]) -> None:
        import scipy.linalg

        if "fid" in metrics and "disp" not in inspect.signature(scipy.linalg.sqrtm).parameters:
            raise _unknown_scipy()

    def layers(self, metrics: Sequence[str]) -> frozenset[str]:
        return frozenset({LAYER} if metrics else ())

    def reference_layers(self, metrics: Sequence[str]) -> Mapping[str, Reads]:
        if not metrics:
            return {}
        return {LAYER: "features" if "kid" in metrics else "moments"}

    def measure(self, metrics: Sequence[str], compared: MetricInputs, options: Options) -> list[MetricValue]:
        numbers = []
        if "fid" in metrics:
            numbers.append(_fid(compared, options))
        if "kid" in metrics:
            numbers.append(_kid(compared))
        return numbers


class Clean(_CleanFid):
    """Mode "clean": antialiased bicubic resize."""

    name: ClassVar[str] = "clean-fid"
    extractor: ClassVar[str] = "clean-fid"


class LegacyTensorflow(_CleanFid):
    """Mode "legacy_tensorflow": TensorFlow 1's resize, as the original FID."""

    name: ClassVar[str] = "clean-fid-legacy-tensorflow"
    extractor: ClassVar[str] = "clean-fid-legacy-tensorflow"


class LegacyPytorch(_CleanFid):
    """Mode "legacy_pytorch": as pytorch-fid."""

    name: ClassVar[str] = "clean-fid-legacy-pytorch"
    extractor: ClassVar[str] = "clean-fid-legacy-pytorch"


CLEAN, LEGACY_TENSORFLOW, LEGACY_PYTORCH = Clean(), LegacyTensorflow(), LegacyPytorch()


def library() -> str:
    return f"clean-fid {version('clean-fid')}"


def _unknown_scipy() -> HostError:
    return HostError(
        f"{library()} calls scipy's sqrtm(disp=), which scipy {version('scipy')} no longer has; install 'scipy<1.18', "
        "or evaluate with adm-v1 or torch-fidelity (clean-fid's kid still works)"
    )


def frechet_distance(samples: Moments, reference: Moments) -> tuple[float, str]:
    """The library's distance, and what it has to say about it ("" as a rule).

    Raises HostError under a scipy that the library does not know, and UserError where its root has no real value.
    """
    from cleanfid.fid import frechet_distance as distance

    arrays = [m.numpy() for m in (samples.mean_D, samples.cov_DD, reference.mean_D, reference.cov_DD)]
    try:
        with _contained() as said:
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
    return float(value), " ".join(said.getvalue().split())


def kernel_distance(samples_ND: Tensor, reference_MD: Tensor, seed: int) -> float:
    """The library's KID of fp32 features with NumPy's global generator seeded; its state comes back afterwards."""
    from cleanfid.fid import kernel_distance as distance

    with _contained():
        state = np.random.get_state()
        np.random.seed(seed)
        try:
            return distance(
                samples_ND.numpy(), reference_MD.numpy(), num_subsets=KID_SUBSETS, max_subset_size=KID_SUBSET_SIZE
            )
        finally:
            np.random.set_state(state)


@contextlib.contextmanager
def _contained() -> Iterator[io.StringIO]:
    """Keep what the library prints and warns from the process, one thread at a time; yields what it printed."""
    with _global_state, contextlib.redirect_stdout(io.StringIO()) as said, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield said


def _fid(compared: MetricInputs, options: Options) -> MetricValue:
    samples, reference = compared.samples.moments(LAYER), reference_of(compared).moments(LAYER)
    value, said = frechet_distance(samples, reference)
    interval, spread = frechet_interval(compared, LAYER, options)
    few = few_images(len(samples.mean_D), samples.count, reference.count)
    return MetricValue(
        metric="fid",
        value=value,
        layer=LAYER,
        library=library(),
        uses_reference=True,
        interval=interval,
        parameters={"moments": "float64, N - 1", "root": "sqrtm of the product"},
        detail={"bootstrap_std": spread} if spread is not None else {},
        notes=(*few, *([said] if said else [])),
    )


def _kid(compared: MetricInputs) -> MetricValue:
    samples_ND, reference_MD = compared.samples.features(LAYER), reference_of(compared).features(LAYER)
    return MetricValue(
        metric="kid",
        value=kernel_distance(samples_ND, reference_MD, KID_SEED),
        layer=LAYER,
        library=library(),
        uses_reference=True,
        parameters={
            "subsets": KID_SUBSETS,
            "subset_size": min(len(samples_ND), len(reference_MD), KID_SUBSET_SIZE),
            "subset_seed": KID_SEED,
            "kernel": "(x.y / D + 1) ** 3",
        },
    )
