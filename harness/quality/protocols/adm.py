"""Protocol `adm-v1`: the numbers of OpenAI's ADM evaluator, without TensorFlow.

uint8 images -> TF1 bilinear resize to 299 -> Inception of 2015-12-05 -> pooled and spatial features, bias-free logits.

fid, sfid         Frechet distance of pooled (2048) and spatial (2023) features; moments in float64
is                inception score in the given order, splits of 5,000; the order of the files matters
is-shuffled       inception score of a permutation with a stated seed, which makes it independent of the order
precision, recall k = 3, squared distances, in the evaluator's fp16 blocks
*-fp32            precision and recall in plain fp32
fid-infinity      FID extrapolated to infinitely many samples; not part of the evaluator

Source   openai/guided-diffusion, evaluations/evaluator.py
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from arvbench.harness.quality.metrics.frechet_infinity import fewest_at_infinity
from arvbench.harness.quality.metrics.intervals import interval_of_mean
from arvbench.harness.quality.metrics.neighbours import Arithmetic
from arvbench.harness.quality.protocols import numbers
from arvbench.harness.quality.protocols.protocol import EvaluationProtocol, Metric, MetricInputs, MetricValue

POOL, SPATIAL, LOGITS = "pool", "spatial", "logits"
POOL_DIMS = 2048
NEIGHBOURS = 3
SHUFFLE_SEED = 0
"""Seed of the permutation behind is-shuffled; part of its id."""


def _shuffled_score(inputs: MetricInputs, layer: str) -> MetricValue:
    """Inception score in random order, with Student's interval; splits in the given order may differ in classes."""
    score = numbers.inception_score(inputs, layer, shuffle_seed=SHUFFLE_SEED)
    if score.spread is None:
        return score
    return replace(score, interval=interval_of_mean(score.value, score.spread, len(score.detail["split_values"])))


def _neighbours(name: str, compute: Callable[..., MetricValue], arithmetic: Arithmetic) -> Metric:
    return Metric(
        name,
        POOL,
        reads="features",
        fewest=NEIGHBOURS + 1,
        compute=partial(compute, k=NEIGHBOURS, arithmetic=arithmetic),
    )


ADM_V1 = EvaluationProtocol(
    name="adm-v1",
    extractor="adm-inception",
    metrics=(
        Metric("fid", POOL, reads="moments", fewest=2, compute=numbers.frechet),
        Metric("sfid", SPATIAL, reads="moments", fewest=2, compute=numbers.frechet),
        Metric("is", LOGITS, compute=numbers.inception_score),
        Metric("is-shuffled", LOGITS, compute=_shuffled_score),
        _neighbours("precision", numbers.precision, "fp16-blocks"),
        _neighbours("recall", numbers.recall, "fp16-blocks"),
        _neighbours("precision-fp32", numbers.precision, "fp32"),
        _neighbours("recall-fp32", numbers.recall, "fp32"),
        Metric(
            "fid-infinity",
            POOL,
            reads="moments",
            fewest=fewest_at_infinity(POOL_DIMS),
            optional=True,
            compute=numbers.frechet_infinity,
        ),
    ),
)
