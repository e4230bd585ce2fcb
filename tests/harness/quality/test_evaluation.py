"""Every number equals an independent computation on the same features, and names its protocol."""

from __future__ import annotations

from dataclasses import replace

import fidelity_digits
import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist
from torch.utils.data import Dataset
from torch_fidelity import calculate_metrics

from arvbench.errors import CheckpointError, UnknownName, UserError
from arvbench.harness.data.digits import load_digits_rgb
from arvbench.harness.quality.evaluation import EvaluationRequest, evaluate
from arvbench.harness.quality.extractors import Extractor, load_extractor
from arvbench.harness.quality.extractors.digits_cnn import load_classifier
from arvbench.harness.quality.extractors.extractor import full_precision
from arvbench.harness.quality.features.feature_pass import FeaturePass
from arvbench.harness.quality.images.source import Provenance
from arvbench.harness.quality.images.tensors import TensorSource
from arvbench.harness.quality.protocols import PROTOCOLS, Metric, MetricInputs, MetricValue, Options
from arvbench.harness.quality.protocols.digits import DIGITS_CNN, isc_splits
from arvbench.harness.quality.protocols.fidelity import kid_subset_size
from arvbench.harness.quality.reference import load_reference
from arvbench.harness.quality.reference.digits import load_digits_statistics

SCHEME = Provenance(labels="data set", uint8_rule="none")
ALL = ("fid", "isc", "kid", "precision", "recall")
DIGITS = load_digits_rgb()


def noisy_digits(count: int, level: float = 25.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return uint8 images of the first `count` digits with noise, and their labels."""
    images = DIGITS.images_N3HW[:count].float()
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return (images + level * noise).clamp(0, 255).to(torch.uint8), DIGITS.labels_N[:count]


SAMPLES, LABELS = noisy_digits(300)


def measure(
    images=SAMPLES, *, scheme=SCHEME, labels=None, reference="digits", metrics=ALL, protocol="digits-cnn", **options
):
    source = TensorSource(images, name="noisy", labels_N=labels, provenance=scheme)
    asked = EvaluationRequest(protocols=(protocol,), reference=reference, metrics=metrics, options=Options(bootstrap=0))
    return evaluate(source, asked, **options).numbers


def values(results) -> dict[str, float]:
    return {result.metric: result.value for result in results}


@pytest.fixture(scope="module")
def measured():
    return {result.metric: result for result in measure(labels=LABELS, metrics=(*ALL, "label-accuracy"))}


@pytest.fixture(scope="module")
def generated() -> np.ndarray:
    with torch.no_grad():
        return load_classifier()(SAMPLES)[0].double().numpy()


@pytest.fixture(scope="module")
def real() -> np.ndarray:
    with torch.no_grad():
        return load_classifier()(DIGITS.images_N3HW)[0].double().numpy()


def test_fid_equals_the_formula_with_a_matrix_square_root(measured, generated, real):
    sigma_g, sigma_r = (np.cov(x, rowvar=False) for x in (generated, real))
    shift = generated.mean(axis=0) - real.mean(axis=0)
    expected = shift @ shift + np.trace(sigma_g + sigma_r - 2 * sqrtm(sigma_g @ sigma_r).real)
    assert measured["fid"].value == pytest.approx(expected, rel=1e-4)
    assert expected > 0.05


def test_kid_equals_the_estimator_written_out(measured, generated, real):
    # The subsets are torch-fidelity's; the estimator on each is the textbook one.
    size = 150
    rng = np.random.RandomState(2020)

    def kernel(x, y):
        return (x @ y.T / 64 + 1) ** 3

    estimates = []
    for _ in range(100):
        x = generated[rng.choice(len(generated), size, replace=False)]
        y = real[rng.choice(len(real), size, replace=False)]
        within = sum((kernel(z, z).sum() - np.trace(kernel(z, z))) / (size * (size - 1)) for z in (x, y))
        estimates.append(within - 2 * kernel(x, y).mean())
    assert measured["kid"].value == pytest.approx(np.mean(estimates), rel=1e-4, abs=1e-6)
    assert measured["kid"].spread == pytest.approx(np.std(estimates), rel=1e-4)


def test_inception_score_equals_the_formula_on_all_samples(measured):
    with torch.no_grad():
        logits = load_classifier()(SAMPLES)[1].double().numpy()
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    expected = np.exp((p * (np.log(p) - np.log(p.mean(axis=0)))).sum(axis=1).mean())
    assert measured["isc"].value == pytest.approx(expected, rel=1e-6)
    assert measured["isc"].spread is None


def test_inception_score_of_many_samples_is_the_mean_over_shuffled_splits():
    images, _ = noisy_digits(1100)
    (result,) = measure(images, metrics=("isc",))
    with torch.no_grad():
        p = load_classifier()(images)[1].double().softmax(dim=1).numpy()
    p = p[np.random.RandomState(2020).permutation(1100)]
    scores = [np.exp((q * np.log(q / q.mean(axis=0))).sum(axis=1).mean()) for q in (p[:550], p[550:])]
    assert result.value == pytest.approx(np.mean(scores), rel=1e-6)
    assert result.spread == pytest.approx(np.std(scores), rel=1e-4)


def test_precision_and_recall_equal_a_direct_comparison_of_all_pairs(measured, generated, real):
    def within_reach(points, manifold):
        radii = np.sort(cdist(manifold, manifold), axis=1)[:, 3]
        return (cdist(points, manifold) <= radii).any(axis=1).mean()

    assert measured["precision"].value == pytest.approx(within_reach(generated, real), abs=1e-6)
    assert measured["recall"].value == pytest.approx(within_reach(real, generated), abs=1e-6)
    assert measured["recall"].value < measured["precision"].value  # fewer samples cover less: a swap would show


def test_values_are_those_of_torch_fidelity_called_as_a_whole(measured):
    class Images(Dataset):
        def __init__(self, images):
            self.images = images

        def __len__(self):
            return len(self.images)

        def __getitem__(self, index):
            return self.images[index]

    whole = calculate_metrics(
        input1=Images(SAMPLES),
        input2=Images(DIGITS.images_N3HW),
        feature_extractor=fidelity_digits.NAME,
        fid=True,
        isc=True,
        kid=True,
        prc=True,
        isc_splits=1,
        kid_subset_size=150,
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
    )
    assert measured["fid"].value == pytest.approx(whole["frechet_inception_distance"], rel=1e-4)
    assert measured["isc"].value == pytest.approx(whole["inception_score_mean"], rel=1e-6)
    assert measured["kid"].value == pytest.approx(whole["kernel_inception_distance_mean"], abs=1e-5)
    assert measured["precision"].value == pytest.approx(whole["precision"], abs=0.5 / 300)
    assert measured["recall"].value == pytest.approx(whole["recall"], abs=0.5 / 1797)


def test_label_accuracy_is_the_share_of_recognised_labels(measured):
    with torch.no_grad():
        classes = load_classifier()(SAMPLES)[1].argmax(dim=1)
    assert measured["label-accuracy"].value == (classes == LABELS).double().mean().item()
    half_wrong = LABELS.clone()
    half_wrong[:150] = (half_wrong[:150] + 1) % 10
    wrong = values(measure(metrics=("label-accuracy",), labels=half_wrong))["label-accuracy"]
    assert wrong == ((classes == half_wrong).double().mean().item()) < 0.6


def test_the_reference_against_itself_is_perfect():
    same = values(measure(DIGITS.images_N3HW, metrics=("fid", "precision", "recall")))
    assert same["fid"] == pytest.approx(0, abs=1e-5)
    assert same["precision"] == same["recall"] == 1


def test_more_noise_is_a_larger_distance():
    fids = [values(measure(noisy_digits(300, level)[0], metrics=("fid",)))["fid"] for level in (0, 25, 60)]
    assert fids == sorted(fids)
    assert fids[2] > 2 * fids[1]


def test_order_of_samples_does_not_matter():
    order = torch.randperm(300, generator=torch.Generator().manual_seed(3))
    metrics = ("fid", "isc", "precision", "recall", "label-accuracy")
    shuffled = values(measure(SAMPLES[order], metrics=metrics, labels=LABELS[order]))
    assert shuffled == pytest.approx(values(measure(metrics=metrics, labels=LABELS)), rel=1e-5)


def test_stored_statistics_give_the_numbers_of_their_images(tmp_path):
    from PIL import Image

    for index, image in enumerate(DIGITS.images_N3HW[:400]):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{index:04d}.png")
    by_folder = {r.metric: r for r in measure(reference=str(tmp_path))}
    stored = load_digits_statistics().features_ND[:400].double().numpy()
    assert by_folder["fid"].value == pytest.approx(frechet(SAMPLES, stored), rel=1e-4)
    assert by_folder["fid"].protocol_id != measure(metrics=("fid",))[0].protocol_id


def frechet(images, real) -> float:
    """FID by the eigenvalues of the symmetric form, which torch-fidelity does not use."""
    with torch.no_grad():
        generated = load_classifier()(images)[0].double().numpy()
    sigma_g, sigma_r = np.cov(generated, rowvar=False), np.cov(real, rowvar=False)
    scale, basis = np.linalg.eigh(sigma_r)
    root = basis * np.sqrt(scale.clip(0)) @ basis.T
    between = np.sqrt(np.linalg.eigvalsh(root @ sigma_g @ root).clip(0)).sum()
    shift = generated.mean(axis=0) - real.mean(axis=0)
    return shift @ shift + np.trace(sigma_g) + np.trace(sigma_r) - 2 * between


def test_results_come_in_the_protocols_order_with_counts_and_distinct_ids(measured):
    assert list(measured) == ["fid", "isc", "kid", "precision", "recall", "label-accuracy"]
    assert [r.metric for r in measure(metrics=("recall", "fid"))] == ["fid", "recall"]
    assert {r.n_samples for r in measured.values()} == {300}
    assert len({r.protocol_id for r in measured.values()}) == 6


def with_network(extractor: Extractor, network) -> FeaturePass:
    """A pass over images that loads this extractor with another network, whatever extractor is named."""

    class Replaced(FeaturePass):
        def extractor(self, name):
            return replace(extractor, network=network)

    return Replaced()


def test_samples_pass_through_the_network_once():
    counts, digits = [], load_extractor("digits-cnn")

    def counting(images):
        counts.append(len(images))
        return digits.network(images)

    measure(labels=LABELS, metrics=(), features=with_network(digits, counting))
    assert sum(counts) == 300


@pytest.mark.parametrize(
    "changed",
    [
        {"labels": "uniform"},
        {"resize": "bicubic:32"},
        {"uint8_rule": "round"},
        {"sampling": "tokenizer reconstruction"},
    ],
)
def test_sample_scheme_is_part_of_the_id_but_its_note_is_not(changed):
    def fid(**more):
        scheme = Provenance(**{"labels": "balanced", "uint8_rule": "truncate", **more})
        return measure(metrics=("fid",), scheme=scheme)[0]

    assert fid(**changed).protocol_id != fid().protocol_id
    assert fid(note="second try").protocol_id == fid().protocol_id
    assert fid(note="second try").note == "second try"


def test_another_number_of_samples_is_another_protocol():
    fewer = noisy_digits(200)[0]
    assert measure(fewer, metrics=("isc",))[0].protocol_id != measure(metrics=("isc",))[0].protocol_id


def test_inception_score_has_one_protocol_for_every_reference(tmp_path):
    with_digits = measure(metrics=("isc", "fid"))[1]
    np.savez(tmp_path / "other.npz", arr_0=SAMPLES[:9].permute(0, 2, 3, 1).numpy())
    with_other = measure(metrics=("isc",), reference=str(tmp_path / "other.npz"))[0]
    assert with_digits == with_other
    with pytest.raises(UserError, match="nowhere"):
        measure(metrics=("isc",), reference=str(tmp_path / "nowhere.npz"))


def test_few_samples_are_reported_in_the_note():
    images, _ = noisy_digits(64)
    assert "biased upwards" in measure(images, metrics=("fid",))[0].note
    assert measure(metrics=("fid",))[0].note == ""


def test_the_seed_of_options_moves_intervals_and_no_value():
    def numbers(seed):
        source = TensorSource(SAMPLES, name="noisy", provenance=SCHEME)
        options = Options(bootstrap=5, seed=seed)
        metrics = ("fid", "fid-infinity")
        return evaluate(
            source, EvaluationRequest(protocols=("digits-cnn",), reference="digits", metrics=metrics, options=options)
        )

    first, second = numbers(0).numbers, numbers(1).numbers
    assert [n.value for n in first] == [n.value for n in second]
    assert [n.protocol_id for n in first] == [n.protocol_id for n in second]
    assert all(a.interval != b.interval for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(("count", "splits"), [(2, 1), (999, 1), (1000, 2), (4999, 9), (5000, 10), (50_000, 10)])
def test_splits_hold_five_hundred_images_up_to_the_published_ten(count, splits):
    assert isc_splits(count) == splits


@pytest.mark.parametrize(
    ("samples", "reference", "size"), [(4, 1797, 2), (999, 1797, 499), (1000, 1797, 1000), (50_000, 10_000, 1000)]
)
def test_kid_subsets_are_the_librarys_or_half_of_a_smaller_set(samples, reference, size):
    assert kid_subset_size(samples, reference) == size


@pytest.mark.parametrize(("metric", "least"), [("kid", 4), ("precision", 4), ("density", 6)])
def test_too_few_samples_are_refused_with_the_number_and_the_least_is_enough(metric, least):
    with pytest.raises(
        UserError, match=rf"{metric} of digits-cnn needs at least {least} samples, noisy has {least - 1}"
    ):
        measure(SAMPLES[: least - 1], metrics=(metric,))
    assert measure(SAMPLES[:least], metrics=(metric,))


def test_fid_and_inception_score_are_defined_for_two_samples():
    assert len(measure(SAMPLES[:2], metrics=("fid", "isc"))) == 2


def test_other_size_is_refused_by_the_reference_or_by_the_extractor():
    larger = SAMPLES.repeat_interleave(2, dim=2)
    with pytest.raises(UserError, match=r"takes 32 x 32 images, these are 64 x 32"):
        measure(larger, metrics=("isc",))
    with pytest.raises(UserError, match=r"samples are 32 x 64 and reference .* is 32 x 32"):
        load_reference("digits", [], samples_shape=(64, 32))


@pytest.mark.parametrize("label", [-1, 10])
def test_label_without_a_class_is_refused_by_name_and_left_out_otherwise(label):
    labels = LABELS.clone()
    labels[7] = label
    with pytest.raises(UserError, match=f"label {label} is not one of the 10 classes"):
        measure(metrics=("label-accuracy",), labels=labels)
    source = TensorSource(SAMPLES, name="noisy", labels_N=labels, provenance=SCHEME)
    request = EvaluationRequest(protocols=("digits-cnn",), reference="digits", options=Options(bootstrap=0))
    evaluation = evaluate(source, request)
    assert "label-accuracy" not in values(evaluation.numbers) and "kid" in values(evaluation.numbers)
    left_out = [finding.text for finding in evaluation.findings if finding.code == "left-out"]
    assert any(f"label-accuracy of digits-cnn is not computed: label {label}" in text for text in left_out)


def test_samples_without_labels_lose_only_the_metrics_of_labels():
    source = TensorSource(SAMPLES, name="noisy", provenance=SCHEME)
    request = EvaluationRequest(protocols=("digits-cnn",), reference="digits", options=Options(bootstrap=2))
    evaluation = evaluate(source, request)
    assert list(values(evaluation.numbers)) == [
        "fid",
        "fid-infinity",
        "isc",
        "kid",
        "precision",
        "recall",
        "density",
        "coverage",
    ]
    assert [f.code for f in evaluation.findings].count("left-out") == 2


def test_unknown_protocol_names_the_nearest():
    with pytest.raises(UnknownName, match="digits-cnn"):
        measure(protocol="digit-cnn")


def test_damaged_extractor_is_named_not_measured():
    def damaged(images):
        return {"64": torch.full((len(images), 64), float("nan")), "logits": torch.zeros(len(images), 10)}

    with pytest.raises(
        CheckpointError, match=r"'digits-cnn' gave NaN or infinite features \(64\) for 256 of 256 images"
    ):
        measure(features=with_network(load_extractor("digits-cnn"), damaged))


def test_callers_precision_settings_do_not_reach_the_features_and_are_restored():
    extractor = load_extractor("digits-cnn")
    plain = extractor.extract(SAMPLES)["64"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(extractor.extract(SAMPLES)["64"], plain)
    previous = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        extractor.extract(SAMPLES[:2])
        assert torch.get_float32_matmul_precision() == "medium"
        with full_precision(torch.device("cpu")):
            assert torch.backends.cudnn.enabled, "without cuDNN convolutions on a GPU are slow"
            assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark
        assert not torch.backends.cudnn.deterministic
    finally:
        torch.set_float32_matmul_precision(previous)


def mean_feature(inputs: MetricInputs, layer: str) -> MetricValue:
    """Metric of this test: mean of all features, with a parameter that belongs to its id."""
    return MetricValue(value=float(inputs.samples.features(layer).double().mean()), parameters={"power": 1})


MEAN_FEATURE = Metric("mean-feature", "64", compute=mean_feature)
WITH_ANOTHER_METRIC = replace(DIGITS_CNN, name="digits-extended", metrics=(*DIGITS_CNN.metrics, MEAN_FEATURE))


def test_a_metric_is_one_line_of_a_protocol_and_a_protocol_one_line_of_the_table(generated):
    with PROTOCOLS.scoped("digits-extended", f"{__name__}:WITH_ANOTHER_METRIC"):
        fid, number = measure(metrics=("mean-feature", "fid"), protocol="digits-extended")
        (alone,) = measure(metrics=("mean-feature",), protocol="digits-extended", reference=None)
    assert number.value == pytest.approx(generated.mean(), rel=1e-9)
    assert (number.metric, number.protocol_name) == ("mean-feature", "digits-extended")
    assert number.detail["parameters"] == {"power": 1}
    assert alone == number, "no reference, whatever the other metrics compare with"
    assert fid.protocol_id != measure(metrics=("fid",))[0].protocol_id, "another protocol is another identity"
