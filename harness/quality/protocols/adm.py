"""Protocol `adm-v1`: the numbers of OpenAI's ADM evaluator, without TensorFlow.

uint8 images -> TF1 bilinear resize to 299 -> Inception of 2015-12-05 -> pooled and spatial features, bias-free logits.

fid, sfid         Frechet distance of pooled (2048) and spatial (2023) features; moments in float64
is                inception score in the given order, splits of 5,000; the order of the files matters
is-shuffled       the same of a permutation with a stated seed, so that it does not
precision, recall k = 3, squared distances, in blocks as the evaluator computes them in fp16
*-fp32            the same in plain fp32
fid-infinity      FID extrapolated to infinitely many samples; not part of the evaluator

Source   openai/guided-diffusion, evaluations/evaluator.py, as PROTOCOLS sections 1 and 7 state it
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from arvbench.harness.quality.metrics.frechet import fewest_at_infinity
from arvbench.harness.quality.protocols.numbers import (
    frechet_numbers,
    inception_score_number,
    precision_recall_numbers,
)
from arvbench.harness.quality.protocols.protocol import EvaluationProtocol, MetricInputs, MetricValue, Options, Reads

POOL, SPATIAL, LOGITS = "pool", "spatial", "logits"
POOL_DIMS = 2048
NEIGHBOURS = 3
SHUFFLE_SEED = 0
"""Of the permutation behind is-shuffled; part of its id."""
_LAYERS = {
    "fid": POOL,
    "sfid": SPATIAL,
    "is": LOGITS,
    "is-shuffled": LOGITS,
    "precision": POOL,
    "recall": POOL,
    "precision-fp32": POOL,
    "recall-fp32": POOL,
    "fid-infinity": POOL,
}


class AdmV1(EvaluationProtocol):
    """The ADM evaluator's metrics."""

    name: ClassVar[str] = "adm-v1"
    extractor: ClassVar[str] = "adm-inception"
    metrics: ClassVar[Mapping[str, int]] = {
        "fid": 2,
        "sfid": 2,
        "is": 1,
        "is-shuffled": 1,
        "precision": NEIGHBOURS + 1,
        "recall": NEIGHBOURS + 1,
        "precision-fp32": NEIGHBOURS + 1,
        "recall-fp32": NEIGHBOURS + 1,
        "fid-infinity": fewest_at_infinity(POOL_DIMS),
    }
    reference_metrics: ClassVar[frozenset[str]] = frozenset(metrics) - {"is", "is-shuffled"}

    def layers(self, metrics: Sequence[str]) -> frozenset[str]:
        return frozenset(_LAYERS[metric] for metric in metrics)

    def reference_layers(self, metrics: Sequence[str]) -> Mapping[str, Reads]:
        needs: dict[str, Reads] = {}
        if "sfid" in metrics:
            needs[SPATIAL] = "moments"
        if {"fid", "fid-infinity"} & set(metrics):
            needs[POOL] = "moments"
        if any(metric.startswith(("precision", "recall")) for metric in metrics):
            needs[POOL] = "features"
        return needs

    def measure(self, metrics: Sequence[str], compared: MetricInputs, options: Options) -> list[MetricValue]:
        numbers = [
            *frechet_numbers(metrics, compared, POOL, options),
            *frechet_numbers(metrics, compared, SPATIAL, options, distance="sfid", infinity=""),
            *precision_recall_numbers(metrics, compared, POOL, k=NEIGHBOURS, arithmetic="fp16-blocks"),
            *precision_recall_numbers(metrics, compared, POOL, k=NEIGHBOURS, arithmetic="fp32", suffix="-fp32"),
        ]
        if "is" in metrics:
            numbers.append(inception_score_number(compared, LOGITS))
        if "is-shuffled" in metrics:
            number = inception_score_number(compared, LOGITS, metric="is-shuffled", shuffled=SHUFFLE_SEED)
            numbers.append(replace(number, interval=_interval(number)))
        return sorted(numbers, key=lambda number: list(self.metrics).index(number.metric))


ADM_V1 = AdmV1()


def _interval(score: MetricValue) -> tuple[float, float] | None:
    """Student's, of a mean over splits in random order; splits in the given order are not drawn alike and have none."""
    from scipy.stats import t as student

    splits = len(score.detail["split_values"])
    if score.spread is None:
        return None
    half = float(student.ppf(0.975, splits - 1)) * score.spread / math.sqrt(splits - 1)
    return score.value - half, score.value + half
