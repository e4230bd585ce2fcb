"""Protocols on one layer of one network, with this package's own arithmetic.

clip-fid, fd-dinov2  Frechet distance on other networks than Inception, and extrapolated to infinitely many samples
cmmd                 kernel distance of CLIP embeddings: no Gaussian assumption, and few images suffice
prdc, prdc-dinov2    precision, recall, density and coverage with five neighbours
per-class-fid        Frechet distance between samples and reference images of one class, averaged over classes

per-class-fid reveals failures that FID over all classes hides: two swapped classes, or no variety within a class. Its
value depends strongly on the number of images per class.

Source   clip-fid: Kynkaanniemi et al. 2023 (arXiv:2203.06026). cmmd: Jayasumana et al. 2024 (arXiv:2401.09603).
         fd-dinov2, prdc-dinov2: Stein et al. 2023 (arXiv:2306.04675). prdc: Naeem et al. 2020 (arXiv:2002.09797)
"""

from __future__ import annotations

from functools import partial

from arvbench.harness.quality.metrics.frechet_infinity import fewest_at_infinity
from arvbench.harness.quality.protocols import numbers
from arvbench.harness.quality.protocols.protocol import EvaluationProtocol, Metric


def _frechet(layer: str, dims: int) -> tuple[Metric, ...]:
    return (
        Metric("fid", layer, reads="moments", fewest=2, compute=numbers.frechet),
        Metric(
            "fid-infinity",
            layer,
            reads="moments",
            fewest=fewest_at_infinity(dims),
            optional=True,
            compute=numbers.frechet_infinity,
        ),
    )


def _prdc(layer: str) -> tuple[Metric, ...]:
    return tuple(
        Metric(name, layer, reads="features", fewest=numbers.PRDC_NEIGHBOURS + 1, compute=partial(numbers.prdc, name))
        for name in ("precision", "recall", "density", "coverage")
    )


CLIP_FID = EvaluationProtocol(name="clip-fid", extractor="clip-vit-b-32", metrics=_frechet("embedding", 512))
FD_DINOV2 = EvaluationProtocol(name="fd-dinov2", extractor="dinov2-vit-l-14", metrics=_frechet("cls", 1024))
CMMD = EvaluationProtocol(
    name="cmmd",
    extractor="clip-vit-l-14-336",
    metrics=(Metric("cmmd", "embedding", reads="features", fewest=2, compute=numbers.cmmd),),
)
PRDC = EvaluationProtocol(name="prdc", extractor="adm-inception", metrics=_prdc("pool"))
PRDC_DINOV2 = EvaluationProtocol(name="prdc-dinov2", extractor="dinov2-vit-l-14", metrics=_prdc("cls"))
PER_CLASS_FID = EvaluationProtocol(
    name="per-class-fid",
    extractor="adm-inception",
    metrics=(
        Metric(
            "per-class-fid",
            "pool",
            reads="features",
            fewest=numbers.FEWEST_PER_CLASS,
            optional=True,
            why_not=numbers.why_not_per_class,
            compute=numbers.per_class_frechet,
        ),
    ),
)
