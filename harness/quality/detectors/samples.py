"""Detectors of too few samples, and of duplicates.

Shapes   N samples, D features
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from arvbench.harness.quality.detectors.evidence import FRECHET, Evidence, finding, names
from arvbench.harness.quality.metrics.inception_score import SPLIT_SIZE
from arvbench.results.schema import Finding

PUBLISHED_SAMPLES = 50_000
"""Samples behind published numbers on ImageNet."""
COMPARED_WITH_PUBLISHED = frozenset(
    {"adm-v1", "torch-fidelity", "clean-fid", "clean-fid-legacy-tensorflow", "fd-dinov2"}
)
"""Protocols with published numbers to compare with."""
_BIASED = frozenset({"fid", "sfid", "is", "isc", "is-shuffled"})
"""Metrics whose value moves with the number of samples."""


def few_samples(evidence: Evidence) -> Iterator[Finding]:
    """At most as many samples as feature dimensions, or fewer than behind published numbers."""
    count = evidence.count
    rank_deficient = [facts for facts in evidence.metrics if facts.metric in FRECHET and count <= facts.dims]
    if rank_deficient:
        dims = min(facts.dims for facts in rank_deficient)
        yield finding(
            "few-samples",
            "warning",
            f"{count:,} samples are no more than the {dims:,} dimensions of the features: "
            f"{names(rank_deficient)} are far too high, by more than models differ. Compare only at the same "
            "number of samples",
        )
    official = int(evidence.recipe.get("images", PUBLISHED_SAMPLES))
    biased = [
        facts
        for facts in evidence.metrics
        if facts.protocol in COMPARED_WITH_PUBLISHED and facts.metric in _BIASED and facts not in rank_deficient
    ]
    if biased and count < official and not evidence.reconstructions:
        yield finding(
            "fewer-than-published",
            "note",
            f"{count:,} samples where published numbers have {official:,}: {names(biased)} are biased "
            "(Frechet distances upwards, inception scores downwards)",
        )


def short_splits(evidence: Evidence) -> Iterator[Finding]:
    """Splits with fewer than 5,000 images, which bias the inception score downwards."""
    scores = [facts for facts in evidence.metrics if facts.metric in ("is", "is-shuffled")]
    rest = evidence.count % SPLIT_SIZE
    if not scores or rest == 0:
        return
    split = "only" if evidence.count < SPLIT_SIZE else "last"
    yield finding(
        "short-split",
        "note",
        f"the {split} split holds {rest:,} of {SPLIT_SIZE:,} images: {names(scores)} are lower than with full splits",
    )


def few_in_reference(evidence: Evidence) -> Iterator[Finding]:
    """A reference with too few images for a covariance of full rank."""
    reference = evidence.reference
    count = reference.statistics_images if reference else None
    if reference is None or count is None:
        return
    deficient = [facts for facts in evidence.metrics if facts.metric in FRECHET and count <= facts.dims]
    if deficient:
        yield finding(
            "few-reference-images",
            "warning",
            f"{reference.name} has {count:,} images, no more than the {min(f.dims for f in deficient):,} dimensions of "
            f"the features: {names(deficient)} are far too high, whatever the samples",
        )


@dataclass(frozen=True, slots=True)
class _Repeats:
    """Entries that equal an earlier one."""

    count: int
    first: tuple[int, int]
    """Indices of the first pair: the earlier entry, and its repeat."""


def _repeats(keys: Sequence[Hashable]) -> _Repeats | None:
    seen: dict[Hashable, int] = {}
    count, first = 0, None
    for number, key in enumerate(keys):
        earlier = seen.setdefault(key, number)
        if earlier != number:
            count += 1
            first = first or (earlier, number)
    return None if first is None else _Repeats(count, first)


def repeated_rows(digests_NB: Tensor) -> _Repeats | None:
    """Return the rows (N, B) that equal an earlier one; None without any."""
    return _repeats([digest.tobytes() for digest in digests_NB.numpy()])


def duplicate_images(evidence: Evidence) -> Iterator[Finding]:
    """Images with equal pixels."""
    repeats = repeated_rows(evidence.digests_ND)
    if repeats is not None:
        yield finding(
            "duplicate-images",
            "warning",
            f"{repeats.count:,} of {evidence.count:,} images are copies of an earlier one (first: image "
            f"{repeats.first[1]} of image {repeats.first[0]}): there are {evidence.count - repeats.count:,} different "
            "samples, recall is too low, and intervals are too narrow",
        )


def duplicate_seeds(evidence: Evidence) -> Iterator[Finding]:
    """Images that share seed and class, or a seed across classes."""
    if evidence.seeds_N is None:
        return
    seeds = evidence.seeds_N.tolist()
    labels = [None] * len(seeds) if evidence.labels_N is None else evidence.labels_N.tolist()
    repeats = _repeats(list(zip(seeds, labels, strict=True)))
    if repeats is not None:
        earlier, later = repeats.first
        label = "" if labels[later] is None else f" and label {labels[later]}"
        yield finding(
            "duplicate-seeds",
            "warning",
            f"{repeats.count:,} of {evidence.count:,} images repeat seed and class of an earlier one (first: image "
            f"{later} has seed {seeds[later]}{label}, as image {earlier}): a deterministic sampler draws the same "
            "image, so the samples are fewer than they look",
        )
    elif (shared := len(seeds) - len(set(seeds))) > 0:
        yield finding(
            "shared-seeds",
            "note",
            f"{shared:,} of {evidence.count:,} images share their seed with an image of another class: images of "
            "different classes start from the same noise, so the samples are not independent and intervals are too "
            "narrow",
        )
