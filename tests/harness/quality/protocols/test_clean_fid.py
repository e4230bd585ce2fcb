"""Protocols of clean-fid: the library's own distances, given a seed, and a process that is left as it was."""

from __future__ import annotations

import cleanfid.fid
import numpy as np
import pytest
import scipy.linalg
import torch
from metric_inputs import features, inputs_of
from torch import Tensor

from arvbench.errors import HostError, UserError
from arvbench.harness.quality.features.sets import FeatureSet, StoredStatistics
from arvbench.harness.quality.protocols import PROTOCOLS, MetricValue, Options, clean_fid
from arvbench.harness.quality.protocols.protocol import reference_layers

MODES = ("clean-fid", "clean-fid-legacy-tensorflow", "clean-fid-legacy-pytorch")


def features_of(count: int, dims: int, seed: int) -> Tensor:
    return features(count, seed, dims, shift=seed / 10)


def measure(metric: str, samples, reference, *, bootstrap: int = 0) -> MetricValue:
    inputs = inputs_of(samples, reference, layer="2048", options=Options(bootstrap=bootstrap))
    return clean_fid.CLEAN.metric(metric).measure(inputs)


def test_fid_is_the_librarys_on_the_same_features():
    samples, reference = features_of(400, 24, 1), features_of(300, 24, 2)
    number = measure("fid", samples, reference)
    theirs = cleanfid.fid.fid_from_feats(samples.numpy(), reference.numpy())
    assert number.value == pytest.approx(theirs, rel=1e-6)
    assert number.interval is None


def test_fid_has_an_interval_around_it():
    samples, reference = features_of(400, 8, 1), features_of(300, 8, 2)
    number = measure("fid", samples, reference, bootstrap=50)
    low, high = number.interval
    assert low < high
    assert low > 0


def test_kid_is_seeded_and_the_global_generator_is_put_back():
    samples, reference = features_of(60, 8, 1), features_of(40, 8, 2)
    np.random.seed(5)
    untouched = np.random.random(3)
    np.random.seed(5)
    first, second = (measure("kid", samples, reference) for _ in range(2))
    assert np.array_equal(np.random.random(3), untouched)
    np.random.seed(first.parameters["subset_seed"])
    assert first.value == second.value == cleanfid.fid.kernel_distance(samples.numpy(), reference.numpy())
    assert (first.parameters["subsets"], first.parameters["subset_size"]) == (100, 40)


def test_kid_equals_its_definition_when_the_subsets_are_the_whole_sets():
    """Then every subset is a permutation, and the value is the unbiased estimate with its cross term over all pairs."""
    x, y = (features_of(12, 5, seed).double().numpy() for seed in (1, 2))
    number = measure("kid", torch.tensor(x), torch.tensor(y))

    def kernel(a, b):
        return (a @ b.T / 5 + 1) ** 3

    m = len(x)
    off_diagonal = ~np.eye(m, dtype=bool)
    within = sum(kernel(z, z)[off_diagonal].sum() for z in (x, y)) / (m * (m - 1))
    assert number.value == pytest.approx(within - 2 * kernel(x, y).mean(), rel=1e-9)


def test_statistics_alone_serve_fid_and_not_kid():
    samples, reference = features_of(50, 6, 1), FeatureSet.of({"2048": features_of(40, 6, 2)})
    stored = StoredStatistics({"2048": reference.moments("2048")}, name="stats.npz")
    fid, kid = clean_fid.METRICS
    assert reference_layers([("clean-fid", [fid])]) == {"clean-fid": {"2048": "moments"}}
    assert reference_layers([("clean-fid", [fid, kid])]) == {"clean-fid": {"2048": "features"}}
    assert measure("fid", samples, stored).value == measure("fid", samples, reference).value
    with pytest.raises(UserError, match=r"stats\.npz holds means and covariances only"):
        measure("kid", samples, stored)


def test_scipy_without_disp_is_named_with_the_way_out(monkeypatch):
    real = scipy.linalg.sqrtm
    monkeypatch.setattr(scipy.linalg, "sqrtm", lambda A: real(A))
    with pytest.raises(HostError, match=r"sqrtm\(disp=\).*'scipy<1.18'.*adm-v1 or torch-fidelity"):
        measure("fid", features_of(50, 6, 1), features_of(40, 6, 2))
    assert measure("kid", features_of(50, 6, 1), features_of(40, 6, 2)).value > 0


def test_a_root_that_is_not_real_is_an_error_with_the_remedy(monkeypatch):
    monkeypatch.setattr(scipy.linalg, "sqrtm", lambda A, disp=True: (A * 1j, 0.0))
    with pytest.raises(UserError, match=r"no real root.*more images"):
        measure("fid", features_of(50, 6, 1), features_of(40, 6, 2))


def test_output_of_the_library_becomes_a_note(monkeypatch, capsys):
    real = scipy.linalg.sqrtm
    monkeypatch.setattr(
        scipy.linalg, "sqrtm", lambda A, disp=True: real(A) if disp else (np.full_like(A, np.nan), np.inf)
    )
    number = measure("fid", features_of(50, 6, 1), features_of(40, 6, 2))
    assert any("singular product" in note for note in number.notes)
    assert capsys.readouterr().out == ""


def test_few_images_are_noted():
    number = measure("fid", features_of(5, 6, 1), features_of(40, 6, 2))
    assert any("fewer images than 6 feature dimensions" in note for note in number.notes)


@pytest.mark.parametrize("name", MODES)
def test_protocol_names_its_extractor_and_layers(name):
    protocol = PROTOCOLS[name]
    assert (protocol.name, protocol.extractor) == (name, name)
    assert [(metric.name, metric.layer) for metric in protocol.metrics] == [("fid", "2048"), ("kid", "2048")]
