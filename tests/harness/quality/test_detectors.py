"""Every detector fires where it must, states the consequence, and is silent elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from arvbench.adapters.loading import load_sampler
from arvbench.adapters.pixels import to_uint8
from arvbench.adapters.sampling import PerImageNoise
from arvbench.harness.data.digits import load_digits_rgb
from arvbench.harness.data.labels import labels_for
from arvbench.harness.quality.detectors import DETECTORS, Evidence, MetricFacts, find
from arvbench.harness.quality.detectors.pixels import judged_rule
from arvbench.harness.quality.identity import image_digests
from arvbench.harness.quality.images.source import Provenance
from arvbench.harness.quality.metrics.inception_score import inception_score
from arvbench.harness.quality.reference import Reference
from arvbench.results.schema import Finding, Quality

COUNT = 50_000
CLASSES = 1000
ADM = tuple(
    MetricFacts(protocol="adm-v1", metric=metric, dims=dims)
    for metric, dims in (("fid", 2048), ("sfid", 2023), ("is", 1008), ("is-shuffled", 1008), ("precision", 2048))
)
GFID = Reference(
    name="ref.npz",
    sha256="a" * 64,
    image_shape=(256, 256),
    labels_M=None,
    data={},
    images=10_000,
    statistics_images=None,
    origin="published",
    use="gFID",
    official="adm-imagenet256",
)


def distinct_digests(count: int) -> torch.Tensor:
    """As many different digests."""
    numbers = torch.arange(count).view(-1, 1)
    return torch.cat([numbers // 256 ** (i % 4) % 256 for i in range(32)], dim=1).to(torch.uint8)


FLAT = torch.full((256,), 10_000)
PERFECT = Evidence(
    samples="samples",
    count=COUNT,
    shape=(256, 256),
    provenance=Provenance(labels="balanced", uint8_rule="round"),
    digests_ND=distinct_digests(COUNT),
    histogram=FLAT,
    metrics=ADM,
    numbers=(),
    labels_N=torch.tensor(labels_for("balanced", COUNT, CLASSES)),
    seeds_N=torch.arange(COUNT),
    classes=CLASSES,
    reference=GFID,
    recipe={"labels": "balanced", "uint8_rule": "127.5x+128", "resize": "none", "images": "50000"},
    files=[f"{number:06d}.png" for number in range(3)],
)


def with_provenance(**changes) -> Evidence:
    return replace(PERFECT, provenance=replace(PERFECT.provenance, **changes))


def with_reference(**changes) -> Evidence:
    return replace(PERFECT, reference=replace(GFID, **changes))


def codes(evidence: Evidence) -> list[tuple[str, str]]:
    return [(finding.code, finding.severity) for finding in find(evidence)]


def only(evidence: Evidence, code: str, severity: str) -> str:
    """Text of the only finding, which must be this one."""
    assert codes(evidence) == [(code, severity)]
    return find(evidence)[0].text


def test_nothing_is_found_where_all_is_well():
    assert codes(PERFECT) == []
    assert codes(replace(PERFECT, reference=None)) == []
    assert len(distinct_digests(300).unique(dim=0)) == 300, "digests of this test differ"


def test_warnings_come_first():
    found = codes(replace(with_provenance(uint8_rule="unknown"), digests_ND=torch.zeros(COUNT, 32, dtype=torch.uint8)))
    assert found == [("duplicate-images", "warning"), ("uint8-rule-unknown", "note")]
    assert len(DETECTORS) == len(set(DETECTORS.values()))


def surplus_of_images(evidence: Evidence) -> Iterator[Finding]:
    """Detector of this test: more samples than published numbers are based on."""
    if evidence.count > COUNT:
        yield Finding(code="surplus", severity="note", text=f"{evidence.count} samples")


def test_a_detector_is_one_line_of_the_table():
    surplus = counted(COUNT + 5000)
    assert codes(surplus) == []
    with DETECTORS.scoped("surplus", f"{__name__}:{surplus_of_images.__name__}"):
        assert codes(surplus) == [("surplus", "note")]
        assert codes(PERFECT) == []


def scores(labels_N: torch.Tensor) -> tuple[Quality, ...]:
    """Inception scores of images whose classifier is sure of their class, in the given order and shuffled."""
    random = torch.Generator().manual_seed(0)
    classes = int(labels_N.max()) + 1
    logits_NC = torch.randn(len(labels_N), classes, generator=random)
    logits_NC[torch.arange(len(labels_N)), labels_N] += 8
    numbers = []
    for metric, seed in (("is", None), ("is-shuffled", 0)):
        score = inception_score(logits_NC, shuffle_seed=seed)
        numbers.append(
            Quality(
                metric=metric,
                value=score.value,
                spread=score.std,
                protocol="adm-v1",
                protocol_id="0" * 12,
                n_samples=len(labels_N),
                detail={"split_values": list(score.split_values)},
            )
        )
    return tuple(numbers)


@pytest.mark.parametrize("splits", [2, 6])
def test_class_order_halves_the_inception_score_and_both_values_are_named(splits):
    count, classes = splits * 5000, 60
    numbers = scores(torch.tensor(labels_for("balanced", count, classes)))
    text = only(replace(PERFECT, numbers=numbers), "order-sensitive-is", "warning")
    assert numbers[0].value < 0.6 * numbers[1].value
    assert f"is {numbers[0].value:.2f} as given, is-shuffled {numbers[1].value:.2f}" in text


@pytest.mark.parametrize("splits", [1, 2, 6])
@pytest.mark.parametrize("scheme", ["balanced-shuffled", "uniform"])
def test_random_order_gives_no_finding(splits, scheme):
    for seed in range(3):
        numbers = scores(torch.tensor(labels_for(scheme, splits * 5000, 60, seed=seed)))
        assert codes(replace(PERFECT, numbers=numbers)) == []


def test_one_split_has_no_order():
    assert codes(replace(PERFECT, numbers=scores(torch.tensor(labels_for("balanced", 5000, 60))))) == []


def labelled(stated: str, labels) -> Evidence:
    return replace(
        PERFECT,
        labels_N=torch.as_tensor(labels),
        provenance=replace(PERFECT.provenance, labels=stated),
        recipe={},
        seeds_N=None,
    )


def test_labels_that_are_said_to_be_balanced_and_are_not():
    labels = labels_for("uniform", COUNT, CLASSES, seed=1)
    text = only(labelled("balanced-shuffled", labels), "labels-unbalanced", "warning")
    assert "labels are said to be balanced-shuffled and are not: 2" in text and "images per class" in text
    missing = [label for label in labels_for("balanced", COUNT, CLASSES) if label not in (3, 700)]
    text = only(labelled("balanced", missing), "labels-unbalanced", "warning")
    assert "0..50 images per class, 2 of 1,000 classes missing (3, 700)" in text


def test_balanced_labels_may_be_no_multiple_of_the_classes_but_must_be_in_order():
    labels = labels_for("balanced", COUNT - 10, CLASSES)
    assert codes(labelled("balanced", labels)) == codes(labelled("balanced-shuffled", labels[::-1])) == []
    assert "another order" in only(labelled("balanced", labels[::-1]), "labels-order", "note")


@pytest.mark.parametrize("classes", [10, 1000])
def test_uniform_labels_are_believed_and_uneven_ones_are_not(classes):
    for seed in range(5):
        evidence = replace(labelled("uniform", labels_for("uniform", COUNT, classes, seed=seed)), classes=classes)
        assert codes(evidence) == []
    skewed = [label if label % 5 else label // 2 for label in labels_for("uniform", COUNT, classes)]
    evidence = replace(labelled("uniform", skewed), classes=classes)
    assert "more so than by uniform drawing" in only(evidence, "labels-unbalanced", "warning")
    even = replace(labelled("uniform", labels_for("balanced", COUNT, classes)), classes=classes)
    assert "said to be drawn uniformly and are exactly balanced" in only(even, "labels-balanced", "note")


def test_labels_of_an_unknown_scheme_are_described():
    drawn = labels_for("uniform", COUNT, CLASSES)
    assert "as if drawn uniformly" in only(labelled("unknown", drawn), "labels-uniform", "note")
    assert codes(labelled("unknown", labels_for("balanced", COUNT, CLASSES))) == []
    assert codes(labelled("data set", [0] * COUNT)) == []
    few = replace(labelled("unknown", drawn[:4000]), count=COUNT)
    assert codes(few) == [], "four images per class say nothing"


@pytest.mark.parametrize("stated", ["unknown", "uniform", "balanced"])
def test_missing_last_classes_are_seen_by_the_reference(stated):
    """Nothing but the reference tells that class 999 is missing: the samples' own labels end at 998."""
    labels = [label for label in labels_for("balanced", COUNT, CLASSES) if label != 999]
    missing = replace(labelled(stated, labels), count=len(labels), classes=None, metrics=[])
    text = only(missing, "labels-unbalanced", "warning")
    assert "0..50 images per class, 1 of 1,000 classes missing (999)" in text
    own = replace(GFID, official="", origin="made", labels_M=torch.arange(CLASSES))
    assert only(replace(missing, reference=own), "labels-unbalanced", "warning") == text
    lsun = replace(GFID, official="adm-lsun-cat256")
    for silent in (None, lsun, replace(own, labels_M=None), replace(own, labels_M=torch.arange(500))):
        findings = codes(replace(missing, reference=silent))
        assert findings == ([("labels-balanced", "note")] if stated == "uniform" else [])


def test_unknown_labels_are_a_note_and_a_claim_without_labels_is_repeated():
    evidence = replace(with_provenance(labels="unknown"), labels_N=None, recipe={})
    assert "50 images per class" in only(evidence, "labels-unknown", "note")
    evidence = replace(with_provenance(labels="uniform"), labels_N=None, recipe={})
    assert "said to be uniform; the samples do not hold them" in only(evidence, "labels-unknown", "note")
    assert codes(replace(with_provenance(labels="data set"), labels_N=None, recipe={})) == []


def test_labels_outside_the_classes_are_counted():
    labels = labels_for("balanced", COUNT, CLASSES)
    labels[7], labels[9] = 1000, -1
    text = only(labelled("balanced", labels), "labels-outside", "warning")
    assert "2 of 50,000 labels are none of the 1,000 classes (first: 1000)" in text


def test_another_label_scheme_than_the_official_one():
    evidence = replace(PERFECT, recipe={"labels": "uniform"})
    assert "labels are balanced; the official samples of this model have uniform labels" in only(
        evidence, "label-scheme", "note"
    )
    assert codes(replace(PERFECT, recipe={"labels": "balanced"})) == []


def test_copies_are_counted_and_the_first_pair_is_named():
    images = load_digits_rgb().images_N3HW[:20].clone()
    images[7] = images[3]
    images[12] = images[3]
    images[19] = images[18]
    evidence = replace(PERFECT, digests_ND=image_digests(images), count=20, metrics=(), labels_N=None, seeds_N=None)
    evidence = replace(evidence, provenance=replace(PERFECT.provenance, labels="data set"), recipe={})
    text = only(evidence, "duplicate-images", "warning")
    assert "3 of 20 images are copies of an earlier one (first: image 7 of image 3)" in text
    assert codes(replace(evidence, digests_ND=image_digests(load_digits_rgb().images_N3HW[:20]))) == []


def test_a_seed_used_twice_for_a_class_is_an_error_of_the_sampling():
    seeds = torch.arange(COUNT)
    seeds[49_999] = 49_960
    text = only(replace(PERFECT, seeds_N=seeds), "duplicate-seeds", "warning")
    assert "first: image 49999 has seed 49960 and label 999, as image 49960" in text
    unlabelled = replace(with_provenance(labels="data set"), seeds_N=seeds, labels_N=None, recipe={})
    assert "image 49999 has seed 49960, as image 49960" in only(unlabelled, "duplicate-seeds", "warning")


def test_one_seed_for_many_classes_is_a_note():
    shared = torch.arange(COUNT) % 50
    text = only(replace(PERFECT, seeds_N=shared), "shared-seeds", "note")
    assert "49,950 of 50,000 images share their seed with an image of another class" in text
    assert codes(replace(PERFECT, seeds_N=None)) == []


def test_reference_of_another_use():
    reconstructed = with_provenance(sampling="tokenizer reconstruction", labels="data set")
    assert "compared with ref.npz, which is for generated images (gFID" in only(
        reconstructed, "wrong-reference", "warning"
    )
    assert codes(replace(reconstructed, reference=replace(GFID, use="rFID"))) == []
    assert "which is for reconstructions (rFID" in only(with_reference(use="rFID"), "wrong-reference", "warning")
    assert codes(with_reference(use="", origin="made", official="")) == []


def test_statistics_that_nobody_vouches_for():
    text = only(with_reference(origin="statistics", official="", use=""), "unknown-reference", "warning")
    assert "sha256 aaaaaaaaaaaa..." in text and "compare only with distances to this very file" in text
    assert codes(with_reference(origin="made", official="")) == []


@pytest.mark.parametrize("origin", ["images", "data set"])
def test_images_of_ones_own_give_no_published_gfid(origin):
    own = with_reference(use="", origin=origin, official="")
    text = only(own, "unpublished-reference", "warning")
    assert "ref.npz is 10,000 images and none of the published reference files" in text
    assert "so fid of adm-v1, sfid of adm-v1 compare with no published number" in text
    assert codes(replace(own, metrics=[facts for facts in ADM if facts.metric not in ("fid", "sfid")])) == []
    others = [MetricFacts(protocol="digits-cnn", metric="fid", dims=64)]
    assert codes(replace(own, metrics=others)) == []
    reconstructed = replace(PERFECT.provenance, sampling="tokenizer reconstruction", labels="data set")
    assert codes(replace(own, provenance=reconstructed)) == [], "rFID is against the images themselves"


def test_notes_of_the_reference_become_findings():
    assert only(with_reference(notes=("its digest is unknown",)), "reference", "note") == "its digest is unknown"


def test_reference_of_unknown_size():
    assert "does not say the size" in only(with_reference(image_shape=None), "reference-resolution", "note")


def test_precision_and_recall_against_a_thousand_images():
    text = only(with_reference(images=1000), "few-reference-images", "warning")
    assert "holds 1,000 images, published precision and recall are against 10,000: precision of adm-v1" in text
    without = replace(with_reference(images=1000), metrics=[f for f in ADM if f.metric != "precision"])
    assert codes(without) == []


def test_a_reference_of_fewer_images_than_dimensions():
    text = only(with_reference(statistics_images=2048, origin="made"), "few-reference-images", "warning")
    assert "no more than the 2,048 dimensions" in text and "fid of adm-v1" in text and "sfid" not in text
    assert codes(with_reference(statistics_images=2049, origin="made")) == []


def counted(count: int, metrics=ADM) -> Evidence:
    return replace(
        PERFECT,
        count=count,
        digests_ND=distinct_digests(count),
        labels_N=torch.tensor(labels_for("balanced", count, CLASSES)),
        seeds_N=None,
        metrics=metrics,
        recipe={},
    )


def test_fewer_samples_than_dimensions():
    only_fid = [facts for facts in ADM if facts.metric in ("fid", "sfid")]
    text = only(counted(1000, only_fid), "few-samples", "warning")
    assert "1,000 samples are no more than the 2,023 dimensions of the features: fid of adm-v1, sfid of adm-v1" in text
    assert ("few-samples", "warning") not in codes(counted(2049, only_fid))


def test_fewer_samples_than_published_numbers_have():
    only_fid = [facts for facts in ADM if facts.metric == "fid"]
    text = only(counted(10_000, only_fid), "fewer-than-published", "note")
    assert "10,000 samples where published numbers have 50,000: fid of adm-v1" in text
    assert codes(replace(counted(10_000, only_fid), recipe={"images": "10000"})) == []
    digits = [MetricFacts(protocol="digits-cnn", metric="fid", dims=64)]
    assert codes(counted(500, digits)) == [], "nothing is published for the digits"
    assert codes(counted(64, digits)) == [("few-samples", "warning")]


def test_short_splits_of_the_inception_score():
    only_is = [MetricFacts(protocol="x", metric="is", dims=1008)]
    assert "the only split holds 1,000 of 5,000" in only(counted(1000, only_is), "short-split", "note")
    assert "the last split holds 1 of 5,000" in only(counted(10_001, only_is), "short-split", "note")
    assert codes(counted(10_000, only_is)) == []


@pytest.fixture(scope="module")
def decoded() -> torch.Tensor:
    """Decoder output of a demo model before it becomes bytes."""
    sampler = load_sampler("demo/var", weights="demo", device="cpu")
    settings = sampler.spec.settings
    samples = sampler.sample(
        [index % 10 for index in range(40)],
        settings,
        noise=PerImageNoise(0, range(40)),
        cache=sampler.make_cache(None, settings, batch=40),
    )
    return samples.decoded.float()


@pytest.fixture(scope="module")
def inside(decoded) -> torch.Tensor:
    """Enough values for every bin, of the decoder's own density between its ends."""
    return decoded[(decoded > 0) & (decoded < 1)].repeat(8)


def histogram(decoded: torch.Tensor, rule: str) -> torch.Tensor:
    return to_uint8(decoded, rule).flatten().bincount(minlength=256)


def test_the_rule_is_not_judged_where_pixels_are_clipped(decoded):
    assert float((decoded <= 0).float().mean()) > 0.05, "digits have a black background"
    for rule in ("truncate", "round", "127.5x+128"):
        assert judged_rule(histogram(decoded, rule)) is None


def test_the_rule_shows_where_no_pixel_is_clipped(inside):
    assert judged_rule(histogram(inside, "truncate")) == "truncate"
    assert judged_rule(histogram(inside, "round")) == "round"
    assert judged_rule(histogram(inside, "127.5x+128")) == "round"
    assert judged_rule(histogram(inside[:1000], "truncate")) is None, "too few pixels to tell"


def test_the_rule_against_the_official_one(inside):
    text = only(with_provenance(uint8_rule="truncate"), "uint8-rule", "warning")
    assert "bytes are made by the rule 'truncate', those of the official samples by 'round'" in text
    assert codes(replace(with_provenance(uint8_rule="truncate"), recipe={"uint8_rule": "truncate"})) == []
    unstated = replace(with_provenance(uint8_rule="unknown"), histogram=histogram(inside, "truncate"))
    assert "look as if they were made by the rule 'truncate'" in only(unstated, "uint8-rule", "warning")


def test_the_rule_that_is_stated_against_the_histogram(inside):
    evidence = replace(PERFECT, histogram=histogram(inside, "truncate"))
    assert "said to be made by the rule 'round' and their histogram is that of 'truncate'" in only(
        evidence, "uint8-rule", "warning"
    )
    resized = with_provenance(resize="pil-bicubic:256")
    assert codes(replace(resized, histogram=evidence.histogram, recipe={})) == [], "a resize makes other bytes"


def test_an_unknown_rule_is_a_note():
    text = only(with_provenance(uint8_rule="unknown"), "uint8-rule-unknown", "note")
    assert "half a grey level" in text
    assert codes(with_provenance(uint8_rule="none")) == []


@pytest.mark.parametrize("rule", ["truncate", "round"])
def test_a_rule_that_only_the_histogram_tells_is_a_note(inside, rule):
    evidence = replace(with_provenance(uint8_rule="unknown"), histogram=histogram(inside, rule), recipe={})
    assert f"bytes look as if made by the rule '{rule}'" in only(evidence, "uint8-rule-judged", "note")
    assert codes(replace(evidence, recipe={"uint8_rule": rule})) == [], "it is the official one"


def test_jpeg_samples():
    evidence = replace(PERFECT, files=["000000.png", "000001.JPG", "000002.jpeg"])
    assert "2 of 50,000 samples are JPEG" in only(evidence, "jpeg", "warning")


def test_numbers_that_text_order_puts_elsewhere():
    evidence = replace(PERFECT, files=["1.png", "10.png", "2.png"])
    assert "10.png before 2.png" in only(evidence, "file-order", "note")
    assert codes(replace(PERFECT, files=["a/1.png", "a/2.png", "b/1.png"])) == []


def test_another_resize_than_the_official_one():
    text = only(replace(PERFECT, recipe={"resize": "bicubic:256"}), "resize", "warning")
    assert "resize before the evaluation is 'none', that of the official samples 'bicubic:256'" in text
    assert codes(replace(with_provenance(resize="bicubic:256"), recipe={"resize": "bicubic:256"})) == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"tf32": True}, "TF32 is on"), ({"tf32": True, "autocast": True}, "TF32 and autocast are on")],
)
def test_reduced_precision_of_the_caller(changes, named):
    assert named in only(replace(PERFECT, **changes), "reduced-precision", "note")
