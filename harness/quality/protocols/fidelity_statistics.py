"""Protocol `torch-fidelity-adm`: torch-fidelity's FID and inception score, against a published file of statistics.

The papers of models with continuous tokens state these numbers. They are made by a fork of the library that reads mean
and covariance from a file in place of images: those of the ADM evaluator (`adm_in256_stats.npz`), which another
implementation of the same network made. The samples' features, the mean and the root are torch-fidelity's, and so is
the inception score, of ten shuffled parts. The file has no images, so there are no precision and recall.

Source   LTH14/torch-fidelity, its argument `fid_statistics_file`, as LTH14/mar calls it (issues 8 and 93 there, and
         OliverRensu/xAR, issue 6)
"""

from __future__ import annotations

from arvbench.harness.quality.protocols import fidelity
from arvbench.harness.quality.protocols.numbers import few_images, spread, spread_detail
from arvbench.harness.quality.protocols.protocol import EvaluationProtocol, Metric, MetricInputs, MetricValue

POOL, LOGITS = "pool", "logits_unbiased"


def fid(inputs: MetricInputs, layer: str) -> MetricValue:
    """FID by the library, of fp32 features and the reference's stored moments; the interval is ours."""
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    samples_ND, moments = inputs.samples.features(layer), inputs.require_reference().moments(layer)
    # The library requires means of one type, and the published one is in fp32.
    reference = {"mu": moments.mean_D.to(samples_ND.dtype).numpy(), "sigma": moments.cov_DD.numpy()}
    both = (fid_features_to_statistics(samples_ND), reference)
    sampling = inputs.once(spread, layer)
    return MetricValue(
        value=fid_statistics_to_metric(*both, verbose=False)[KEY_METRIC_FID],
        library=fidelity.library(),
        interval=sampling.interval if sampling else None,
        parameters={"moments": "float32, N - 1; of the reference as stored", "root": "eigenvalues of the product"},
        detail={**spread_detail(inputs, sampling), **fidelity.BY_LIBRARY},
        notes=few_images(samples_ND.shape[1], len(samples_ND), moments.count),
    )


TORCH_FIDELITY_ADM = EvaluationProtocol(
    name="torch-fidelity-adm",
    extractor="fidelity-inception-adm",
    statistics_only=True,
    metrics=(
        Metric("fid", POOL, reads="moments", fewest=2, compute=fid),
        Metric("is", LOGITS, fewest=fidelity.ISC_SPLITS, compute=fidelity.isc),
    ),
)
