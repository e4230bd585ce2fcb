"""The public numbers of OpenAI's evaluator, from the public files, where those are at hand.

Needs ARVBENCH_INCEPTION (the published weights) and ARVBENCH_REFERENCES, the folder that holds both the reference and
the sample files of openai/guided-diffusion under their published names. 50,000 images: minutes on a GPU, an hour on a
CPU. Run with -m slow.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from arvbench.harness.quality.evaluation import EvaluationRequest, evaluate
from arvbench.harness.quality.features.feature_pass import FeaturePass
from arvbench.harness.quality.images.open import open_images
from arvbench.harness.quality.protocols import Options

# Samples, reference, metric -> (published by the TensorFlow evaluator, allowed difference).
PUBLISHED = [
    (
        "admnet_guided_upsampled_imagenet256.npz",
        "VIRTUAL_imagenet256_labeled.npz",
        {
            "is": (215.83703, 0.3),
            "fid": (3.9425574, 0.003),
            "sfid": (6.1404337, 0.003),
            "precision": (0.8265, 0.002),
            "recall": (0.5309, 0.003),
        },
    ),
    (
        "admnet_guided_imagenet128.npz",
        "VIRTUAL_imagenet128_labeled.npz",
        {
            "is": (141.4767, 0.3),
            "fid": (2.973289, 0.003),
            "sfid": (5.094564, 0.003),
            "precision": (0.78138, 0.002),
            "recall": (0.5929, 0.003),
        },
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("samples", "reference", "published"), PUBLISHED, ids=[row[0] for row in PUBLISHED])
def test_public_numbers_are_reproduced(samples, reference, published, tmp_path):
    weights, files = os.environ.get("ARVBENCH_INCEPTION"), os.environ.get("ARVBENCH_REFERENCES")
    if not weights or not files:
        pytest.skip("ARVBENCH_INCEPTION and ARVBENCH_REFERENCES name no published weights and files")
    missing = [name for name in (samples, reference) if not (Path(files) / name).is_file()]
    if missing:
        pytest.skip(f"{missing[0]} is not in ARVBENCH_REFERENCES")
    result = evaluate(
        open_images(Path(files) / samples),
        EvaluationRequest(
            protocols=("adm-v1",),
            reference=str(Path(files) / reference),
            metrics=tuple(published),
            options=Options(bootstrap=0),
        ),
        features=FeaturePass(
            device="cuda" if torch.cuda.is_available() else "cpu",
            extractor_files={"inception": Path(weights)},
            work=tmp_path / "features",
        ),
    )
    for number in result.numbers:
        value, allowed = published[number.metric]
        print(f"{number.metric:10} published {value}  here {number.value:.7g}  difference {number.value - value:+.2g}")
        assert number.value == pytest.approx(value, abs=allowed), number.metric
